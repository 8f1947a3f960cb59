/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Step 2: is it for a virtual service, and is the frame for this host? */
#pragma once

static __always_inline struct service *service_at(struct listener *to, __u32 *slot)
{
	struct service *s = bpf_map_lookup_elem(&services, slot);

	return s && *(__u64 *)&s->listener == *(__u64 *)to ? s : 0;
}

static __always_inline struct service *service_find(struct packet *p)
{
	__u32 *slot = bpf_map_lookup_elem(&listeners, &p->to);
	struct service *s;

	if (!slot)
		return 0;
	s = service_at(&p->to, slot);
	if (likely(s))
		return s;
	/*
	 * A map element that was replaced under us may already hold another
	 * listener's slot. A second look sees the new element.
	 */
	slot = bpf_map_lookup_elem(&listeners, &p->to);
	return slot ? service_at(&p->to, slot) : 0;
}

/*
 * IPVS sees only frames that are addressed to the host. So do we: a frame that
 * a hub or a promiscuous interface shows us is another host's to forward.
 */
static __always_inline int for_this_host(struct packet *p, struct parameters *set, __u32 ifindex)
{
	__u64 mac = *(__u32 *)p->eth->destination | (__u64)*(__u16 *)(p->eth->destination + 4) << 32;
	int i;

	for (i = 0; i < INTERFACES; i++) {
		struct interface *f = &set->interfaces[i];

		if (f->index == ifindex)
			return mac == (*(__u32 *)f->mac | (__u64)*(__u16 *)(f->mac + 4) << 32);
	}
	return 0;
}
