/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The maps. Sizes here are what the verifier and the tests see first; Go sets
 * the real ones before loading. What Go writes much of is mappable: it writes
 * there without a system call an element.
 */
#pragma once

/* Who is served. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct listener);
	__type(value, struct listening);
	__uint(max_entries, 1024);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct listener6);
	__type(value, struct listening6);
	__uint(max_entries, 1024);
} listeners6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct service);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct member);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct group);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} groups SEC(".maps");

/* Tables of sh, dh, mh and of consistent hashing, one after the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct hash_pair);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} hash_slots SEC(".maps");

/* Whose turn it is in rr and wrr, by service id; see struct turn in schedule.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} turns SEC(".maps");

/*
 * A cache: what is forgotten is scheduled again, so here the least recently used
 * may go. (The kernel forgets what was not used for 6 minutes or a day.)
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct destination);
	__type(value, struct destination_set);
	__uint(max_entries, 16384);
} destinations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct locality_scratch);
	__uint(max_entries, 1);
} locality SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct server);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} servers SEC(".maps");

/* Apart from servers: written at every new connection, while those are only read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct load);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} loads SEC(".maps");

/* Apart from loads: most servers have none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct limit);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} limits SEC(".maps");

/* Only lblc and lblcr look here: all others have it from the list of members. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seed);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} seeds SEC(".maps");

/* Apart from loads: written when a connection ends young, or its SYN comes again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct young);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} youngs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, 1024);
} server_counters SEC(".maps");

/* Only Go uses these two. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct server_base);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} server_bases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct service_base);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} service_bases SEC(".maps");

/* The connection table. Mappable: the daemon lists it without a system call an entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct bucket);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} connections SEC(".maps");

/* Only for its BTF. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct layouts);
	__uint(max_entries, 1);
} layouts SEC(".maps");

/* IPv6 and persistent services' connections. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wide_bucket);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} wide_connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct spill_counts);
	__uint(max_entries, 64);
} spills SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct spill_counts);
	__uint(max_entries, 128);
} wide_spills SEC(".maps");

/* Persistence: which server a client, or a network of clients, sticks to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wide_bucket);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_MMAPABLE);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} scratch SEC(".maps");

#define LOCKS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct lock);
	__uint(max_entries, LOCKS);
} locks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct parameters);
	__uint(max_entries, 1);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sweep);
	__uint(max_entries, 1);
} sweeper SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, VERDICT_MAX);
} verdicts SEC(".maps");

/* Replies of our own, fragments given to the daemon, or copies it is to make, in the second that is running. */
enum allowances {
	ALLOWANCE_REPLY,
	ALLOWANCE_PARK,
	ALLOWANCE_COPY,
	ALLOWANCE_MAX,
};

struct allowance {
	__u32 second;
	__u32 used;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct allowance);
	__uint(max_entries, ALLOWANCE_MAX);
} allowances SEC(".maps");

/* The deny lists of all services. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct denied_key);
	__type(value, struct denial);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} denied SEC(".maps");

/* Who has made new connections of late, where services limit that. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct source_set);
	__uint(max_entries, SOURCE_SETS);
} sources SEC(".maps");

/* The addresses of all virtual services: whose fragments are ours. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct vip);
	__type(value, __u32);
	__uint(max_entries, 1024);
} vips SEC(".maps");

/* Where datagrams in fragments go. Nothing is counted by it: what is evicted is a hint lost. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, __u64);
	__uint(max_entries, 1024);
} fragments SEC(".maps");

/* To the daemon: struct arrival, and struct parked. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} arrivals SEC(".maps");

/* What is carried over, so many at a time. Not pinned. */
#define CARRIED 2048
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct carried);
	__uint(max_entries, CARRIED);
	__uint(map_flags, BPF_F_MMAPABLE);
} mailbox SEC(".maps");
