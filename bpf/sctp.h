/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * SCTP: what a packet is by its chunks, and what that makes of a connection
 * (ip_vs_proto_sctp.c). The checksum covers nothing that we change.
 */
#pragma once

/* The kinds of chunks that make a difference; what is not among them is as DATA. */
enum {
	SCTP_ROW_DATA,
	SCTP_ROW_INIT,
	SCTP_ROW_INIT_ACK,
	SCTP_ROW_COOKIE_ECHO,
	SCTP_ROW_COOKIE_ACK,
	SCTP_ROW_SHUTDOWN,
	SCTP_ROW_SHUTDOWN_ACK,
	SCTP_ROW_SHUTDOWN_COMPLETE,
	SCTP_ROW_ERROR,
	SCTP_ROW_ABORT,
};

/*
 * What stands for a packet of SCTP in the place of TCP's flags: the kind of
 * chunk in the high half; and as all of SYN and RST but the states goes for INIT
 * and ABORT, too, their flags.
 */
static const __u8 sctp_flags[16] = {
	[SCTP_CHUNK_INIT] = SCTP_ROW_INIT << 4 | TCP_SYN,
	[SCTP_CHUNK_INIT_ACK] = SCTP_ROW_INIT_ACK << 4,
	[SCTP_CHUNK_ABORT] = SCTP_ROW_ABORT << 4 | TCP_RST,
	[SCTP_CHUNK_SHUTDOWN] = SCTP_ROW_SHUTDOWN << 4,
	[SCTP_CHUNK_SHUTDOWN_ACK] = SCTP_ROW_SHUTDOWN_ACK << 4,
	[SCTP_CHUNK_ERROR] = SCTP_ROW_ERROR << 4,
	[SCTP_CHUNK_COOKIE_ECHO] = SCTP_ROW_COOKIE_ECHO << 4,
	[SCTP_CHUNK_COOKIE_ACK] = SCTP_ROW_COOKIE_ACK << 4,
	[SCTP_CHUNK_SHUTDOWN_COMPLETE] = SCTP_ROW_SHUTDOWN_COMPLETE << 4,
};

/* Not by pointer: a chunk may be anywhere in a long packet, and an skb be in pieces there. */
static __always_inline long chunk_read(struct context *ctx, __u32 at, __u32 end, struct sctp_chunk *c)
{
	if (at + sizeof(*c) > end)
		return -1;
	return ctx->tc ? bpf_skb_load_bytes(ctx->skb, at, c, sizeof(*c))
		       : bpf_xdp_load_bytes(ctx->xdp, at, c, sizeof(*c));
}

/*
 * The flags of a packet by its first chunk; or its second, if that is an ABORT
 * behind a cookie. at and end are bytes of the frame; negative: there is no chunk.
 */
static __always_inline int chunk_flags(struct context *ctx, __u32 at, __u32 end)
{
	struct sctp_chunk c = {};
	__u8 type;

	if (chunk_read(ctx, at, end, &c))
		return -1;
	type = c.type;
	if ((type == SCTP_CHUNK_COOKIE_ECHO || type == SCTP_CHUNK_COOKIE_ACK) && ntohs(c.length) >= sizeof(c) &&
	    !chunk_read(ctx, at + ((ntohs(c.length) + 3) & ~3), end, &c) && c.type == SCTP_CHUNK_ABORT)
		type = SCTP_CHUNK_ABORT;
	return type < sizeof(sctp_flags) ? sctp_flags[type] : 0;
}

__attribute__((noinline)) int sctp_flags_xdp(struct xdp_md *xdp, __u32 at, __u32 end)
{
	struct context ctx = { .xdp = xdp };

	return chunk_flags(&ctx, at, end);
}

__attribute__((noinline)) int sctp_flags_skb(struct __sk_buff *skb, __u32 at, __u32 end)
{
	struct context ctx = { .skb = skb, .tc = 1 };

	return chunk_flags(&ctx, at, end);
}

static __always_inline int sctp_flags_at(struct context *ctx, __u32 at, __u32 end)
{
	return ctx->tc ? sctp_flags_skb(ctx->skb, at, end) : sctp_flags_xdp(ctx->xdp, at, end);
}

/* The INPUT-ONLY rows of sctp_states. The states that are not here nothing leads to. */
#define ROW(none, init1, init, echoed, established, received, closed)                        \
	{                                                                                    \
		[SCTP_NONE] = none, [SCTP_INIT1] = init1, [SCTP_INIT] = init,                \
		[SCTP_COOKIE_ECHOED] = echoed, [SCTP_ESTABLISHED] = established,             \
		[SCTP_SHUTDOWN_RECEIVED] = received, [SCTP_CLOSED] = closed                  \
	}
#define I1 SCTP_INIT1
#define IN SCTP_INIT
#define CE SCTP_COOKIE_ECHOED
#define ES SCTP_ESTABLISHED
#define SR SCTP_SHUTDOWN_RECEIVED
#define CL SCTP_CLOSED
static const __u8 sctp_next[16][16] = {
	/*                           NONE  I1  IN  CE  ES  SR  CL */
	[SCTP_ROW_DATA]		= ROW(ES, I1, IN, CE, ES, SR, CL),
	[SCTP_ROW_INIT]		= ROW(I1, IN, IN, CE, ES, SR, IN),
	[SCTP_ROW_INIT_ACK]	= ROW(CE, CE, CE, CE, ES, SR, CL),
	[SCTP_ROW_COOKIE_ECHO]	= ROW(ES, ES, ES, CE, ES, SR, CL),
	[SCTP_ROW_COOKIE_ACK]	= ROW(ES, I1, IN, ES, ES, SR, CL),
	[SCTP_ROW_SHUTDOWN]	= ROW(SR, I1, IN, CE, SR, SR, CL),
	[SCTP_ROW_SHUTDOWN_ACK]	= ROW(CL, IN, IN, CE, CL, SR, CL),
	[SCTP_ROW_SHUTDOWN_COMPLETE] = ROW(CL, CL, CL, CE, ES, CL, CL),
	[SCTP_ROW_ERROR]	= ROW(CL, I1, IN, CE, ES, SR, CL),
	[SCTP_ROW_ABORT]	= ROW(CL, CL, CL, CL, CL, CL, CL),
};
#undef ROW
#undef I1
#undef IN
#undef CE
#undef ES
#undef SR
#undef CL

static __always_inline __u32 sctp_after(__u8 flags, __u32 old)
{
	return sctp_next[flags >> 4][old & 0xf];
}
