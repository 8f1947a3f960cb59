/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Packets of this host's own connections to a VIP come by the loopback interface,
 * where the program of tc is if the director is to be its own client.
 */
#pragma once

#define LOOPBACK 1 /* the interface's index in every network namespace */

/*
 * Is it from an address that each host has for itself: a loopback address
 * (ip_vs_xmit.c, crosses_local_route_boundary), or the VIP, which a real server
 * has too? It would answer itself.
 */
static __always_inline int own_source(struct packet *p)
{
	__be32 from = p->key.client[1] >> 32, vip = p->vip[3];

	if (!p->six)
		return from == vip || (from & htonl(0xff000000)) == htonl(0x7f000000);
	if (p->key.client[0] == 0 && p->key.client[1] == (__u64)htonl(1) << 32)
		return 1;
	return p->key.client[0] == (p->vip[0] | (__u64)p->vip[1] << 32) &&
	       p->key.client[1] == (p->vip[2] | (__u64)p->vip[3] << 32);
}
