// SPDX-License-Identifier: MIT

package main

// The yardsticks and the wrapper are committed compiled, as the director is.
//go:generate go tool bpf2go -cc clang-22 -cflags "-O2 -g -Wall -Werror -nostdinc -mcpu=v3" -target bpfel bench bpf/bench.bpf.c
