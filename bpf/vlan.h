/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * VLANs, IEEE 802.1Q. Between frame_open and its way out a frame has no tag: an
 * skb has it beside its bytes anyway, and XDP's is taken out. So all between sees
 * frames as they always are, and what XDP and tc do is the same.
 *
 * frame.tag says which one there was. A frame with two (QinQ), of 802.1ad, or of a
 * VLAN that no service side is on is the stack's, as it came.
 */
#pragma once

#define TAG_PRESENT 0x10000 /* with the 16 bits that are on the wire */
#define TAG_FOREIGN 0x20000 /* it has one that is not for us, and it is still there */
#define TAG_VLAN    0x0fff  /* 0: the tag has a priority only, the frame counts as untagged */
#define TAG_REST    0xf000  /* priority and drop eligibility */

struct vlan_tag {
	__be16 tci;
	__be16 proto; /* of what is behind it */
};

static __always_inline int is_tag(__be16 proto)
{
	return proto == htons(ETH_P_8021Q) || proto == htons(ETH_P_8021AD);
}

/* Is there a service side on this VLAN? Whose frames it takes there: for_this_host. */
static __always_inline int vlan_served(__u32 ifindex, __u32 vlan)
{
	__u32 zero = 0;
	struct parameters *set = bpf_map_lookup_elem(&settings, &zero);
	int i;

	if (!set)
		return 0;
	for (i = 0; i < INTERFACES; i++)
		if (set->interfaces[i].index == ifindex && set->interfaces[i].vlan == vlan)
			return 1;
	return 0;
}

/*
 * The three below are functions of their own, which the verifier looks at apart;
 * untagged frames never come there.
 */

/* Take the tag out of a frame. Returns it as in frame.tag. */
__attribute__((noinline)) int untag_xdp(struct xdp_md *xdp)
{
	struct ethhdr *eth = (void *)(long)xdp->data;
	struct vlan_tag *tag = (void *)(eth + 1);
	struct ethhdr macs;
	__u32 tci;

	if ((void *)(tag + 1) > (void *)(long)xdp->data_end ||
	    eth->proto != htons(ETH_P_8021Q))
		return TAG_FOREIGN;
	tci = ntohs(tag->tci);
	if (!vlan_served(xdp->ingress_ifindex, tci & TAG_VLAN))
		return TAG_FOREIGN;
	macs = *eth;
	if (bpf_xdp_adjust_head(xdp, sizeof(*tag)))
		return TAG_FOREIGN;
	eth = (void *)(long)xdp->data;
	if ((void *)(eth + 1) > (void *)(long)xdp->data_end)
		return TAG_FOREIGN; /* it cannot be */
	__builtin_memcpy(eth->destination, macs.destination, 6);
	__builtin_memcpy(eth->source, macs.source, 6);
	return TAG_PRESENT | tci;
}

/* Put a tag in; 0: done. */
__attribute__((noinline)) int tag_xdp(struct xdp_md *xdp, __u32 tci)
{
	struct ethhdr *eth, from;
	struct vlan_tag *tag;

	if (bpf_xdp_adjust_head(xdp, -(int)sizeof(*tag)))
		return -1;
	eth = (void *)(long)xdp->data;
	tag = (void *)(eth + 1);
	if ((void *)(tag + 1) > (void *)(long)xdp->data_end)
		return -1;
	__builtin_memcpy(&from, (void *)eth + sizeof(*tag), 12);
	__builtin_memcpy(eth, &from, 12);
	eth->proto = htons(ETH_P_8021Q);
	tag->tci = htons(tci);
	return 0;
}

/* The tag that the driver, or the kernel before us, has put beside an skb. */
__attribute__((noinline)) int tag_of_skb(struct __sk_buff *skb)
{
	__u32 tci = skb->vlan_tci;

	if (skb->vlan_proto != htons(ETH_P_8021Q) ||
	    !vlan_served(skb->ifindex, tci & TAG_VLAN))
		return TAG_FOREIGN;
	return TAG_PRESENT | tci;
}

/* Give an skb another tag, or none; 0: done. Both as in frame.tag. */
__attribute__((noinline)) int retag_skb(struct __sk_buff *skb, __u32 from, __u32 to)
{
	if (from && bpf_skb_vlan_pop(skb))
		return -1;
	return to ? bpf_skb_vlan_push(skb, htons(ETH_P_8021Q), to & 0xffff) : 0;
}
