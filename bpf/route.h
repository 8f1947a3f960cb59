/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Between the steps: what they tell each other, and what more than one of them looks up. */
#pragma once

/* What one packet's way through the steps has found out. */
struct route {
	__u64 hash;
	__u32 now;
	__u32 slot; /* of its service */
	__u32 server;
	__u32 template; /* held for the connection that is to be remembered; 0: none */
};

static __always_inline struct server *server_at(__u32 id)
{
	return bpf_map_lookup_elem(&servers, &id);
}

static __always_inline struct parameters *parameters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}
