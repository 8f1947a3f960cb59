// SPDX-License-Identifier: MIT

package dataplane

// The compiled program and the Go side of its structures are committed, so that
// building shunt needs no clang. The compiler is pinned: another version makes
// other bytes, and CI compares.
//go:generate go tool bpf2go -tags !otherlayout -cc clang-22 -cflags "-O2 -g -Wall -Werror -nostdinc -mcpu=v3" -target bpfel -type listener -type listener6 -type listening -type listening6 -type service -type member -type server -type load -type counters -type connection -type bucket -type wide_connection -type wide_bucket -type parameters -type interface -type sweep -type clock -type service_base -type server_base -type limit -type limit_update -type group -type hash_pair -type group_update -type spill_counts -type vip -type fragment_key -type arrival -type parked -type verdict_count -type carried -type counters_update -type denied_key -type denial -type source_set -type seed -type young -type ending -type ended bpf ../../bpf/director.bpf.c

// The same with another layout of the maps, for tests: go build -tags otherlayout.
//go:generate go tool bpf2go -tags otherlayout -output-stem other -cc clang-22 -cflags "-O2 -g -Wall -Werror -nostdinc -mcpu=v3 -DOTHER_LAYOUT" -target bpfel -type listener -type listener6 -type listening -type listening6 -type service -type member -type server -type load -type counters -type connection -type bucket -type wide_connection -type wide_bucket -type parameters -type interface -type sweep -type clock -type service_base -type server_base -type limit -type limit_update -type group -type hash_pair -type group_update -type spill_counts -type vip -type fragment_key -type arrival -type parked -type verdict_count -type carried -type counters_update -type denied_key -type denial -type source_set -type seed -type young -type ending -type ended bpf ../../bpf/director.bpf.c

// The way of health checks is an object of its own: it has nothing to do with
// the packet path, and goes with the daemon.
//go:generate go tool bpf2go -output-stem checkpath -cc clang-22 -cflags "-O2 -g -Wall -Werror -nostdinc -mcpu=v3" -target bpfel -type check_vip -type check_key -type check_note checkPath ../../bpf/check.bpf.c
