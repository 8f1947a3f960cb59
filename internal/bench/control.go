// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// aside runs f on another thread than the one that measures packets: without
// its priority, and on any CPU.
func aside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}

// control: what changes of the rules take, made through the daemon as it is
// installed.
func control(s *session) error { return aside(s.control) }

func (s *session) control() (err error) {
	d, err := newDaemon(s.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.start(s.ctx, 0); err != nil {
		return err
	}
	c := &controlled{session: s, daemon: d}
	services, rounds, few := 10_000, min(s.rounds, 3), 50
	if s.quick {
		services, rounds, few = 1000, 1, 10
	}
	c.table = s.report.table("Changing the rules", "about",
		"what", "ms", "in it")
	steps := []func() error{
		func() error { return c.bulk(services, rounds) },
		func() error { return c.one(services, few) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("%w; the director says:\n%s", err, d.said)
		}
	}
	return nil
}

// controlled is a daemon whose rules are changed.
type controlled struct {
	*session
	*daemon
	table *table
}

// note adds a row: times, and what is in them.
func (c *controlled) note(what string, took series, in string) {
	c.table.row(what, fmt.Sprintf("%.1f (%.1f–%.1f)", median(took), slices.Min(took), slices.Max(took)), in)
}

func took(f func() error) (ms float64, err error) {
	begin := time.Now()
	err = f()
	return float64(time.Since(begin).Nanoseconds()) / 1e6, err
}

func (c *controlled) change(changes ...lvs.Change) error { return c.client.Change(c.ctx, changes) }

// bulk makes many services at once, through the API and by ipvsadm -R.
func (c *controlled) bulk(services, rounds int) error {
	changes := c.manyServices(services, manyServers)
	var applied, cleared, restored series
	clear := func() error {
		ms, err := took(func() error { return c.change(lvs.Change{Operation: lvs.Clear}) })
		cleared = append(cleared, ms)
		return err
	}
	for range rounds {
		ms, err := took(func() error { return c.change(changes...) })
		if err != nil {
			return err
		}
		applied = append(applied, ms)
		if err := clear(); err != nil {
			return err
		}
	}
	lines, err := c.lines(c.manyServices(services, manyServers-1))
	if err != nil {
		return err
	}
	for range rounds {
		cmd := c.command(c.ctx, "ipvsadm", "-R")
		cmd.Stdin = bytes.NewReader(lines)
		ms, err := took(func() error { _, err := cmd.Output(); return err })
		if err != nil {
			return err
		}
		restored = append(restored, ms)
		if err := clear(); err != nil {
			return err
		}
	}
	c.note(fmt.Sprintf("%d services × %d servers", services, manyServers), applied, "one request through the API: sent, carried out, saved, answered")
	c.note(fmt.Sprintf("`ipvsadm -R` of %d lines", services*manyServers), restored, "the whole process")
	c.note("all removed (`-C`)", cleared, "one request through the API")
	c.report.figure(fmt.Sprintf("%d services × %d servers applied", services, manyServers), median(applied))
	c.report.figure(fmt.Sprintf("ipvsadm -R of %d lines", services*manyServers), median(restored))
	return c.change(changes...)
}

// lines writes changes as ipvsadm -S does.
func (c *controlled) lines(changes []lvs.Change) ([]byte, error) {
	t, err := lvs.NewTable().Changed(changes)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = ipvsadm.WriteRules(&b, t)
	return b.Bytes(), err
}

// one makes one change at a time.
func (c *controlled) one(services, times int) error {
	var inAPI, inProcess, bare series
	for i := range times {
		id := manyService(i * 37 % services)
		change := lvs.Change{Operation: lvs.EditServer, Service: lvs.VirtualService{ServiceID: id}, Server: c.server(id, i%manyServers, int32(2+i%5))}
		ms, err := took(func() error { return c.change(change) })
		if err != nil {
			return err
		}
		inAPI = append(inAPI, ms)
	}
	for i := range times {
		id := manyService(i * 37 % services)
		at := fmt.Sprintf("%v:%d", id.Addr, id.Port)
		cmd := c.command(c.ctx, "ipvsadm", "-e", "-t", at, "-r", c.RealServers[i%manyServers].Addr().String(), "-g", "-w", fmt.Sprint(1+i%7))
		ms, err := took(func() error { _, err := cmd.Output(); return err })
		if err != nil {
			return err
		}
		inProcess = append(inProcess, ms)
		ms, err = took(func() error { _, err := c.command(c.ctx, "ipvsadm", "--version").Output(); return err })
		if err != nil {
			return err
		}
		bare = append(bare, ms)
	}
	c.note("one weight", inAPI, "one request through the API")
	c.note("one weight, `ipvsadm -e`", inProcess, "the whole process")
	c.note("`ipvsadm --version`", bare, "the whole process, which asks no director")
	c.report.figure("one weight changed", median(inAPI))
	return nil
}
