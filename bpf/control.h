/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What the daemon has the kernel do that writing a map cannot. */
#pragma once

/*
 * Write a server's record so that a packet sees a MAC address whole or not yet:
 * the word with MAC and flags is one store, and it comes last.
 */
SEC("syscall")
int set_server(struct server_update *u)
{
	__u32 id = u->id;
	struct server *s = bpf_map_lookup_elem(&servers, &id);

	if (!s)
		return 1;
	*(volatile __u64 *)s->source = *(__u64 *)u->server.source;
	s->interface = u->server.interface;
	s->service = u->server.service;
	s->addr = u->server.addr;
	__sync_lock_test_and_set((__u64 *)s->mac, *(__u64 *)u->server.mac);
	return 0;
}

/* Tells how long a jiffy is: both clocks at the same moment. */
SEC("syscall")
int read_clock(struct clock *out)
{
	out->jiffies = bpf_jiffies64();
	out->nanoseconds = bpf_ktime_get_ns();
	return 0;
}
