// SPDX-License-Identifier: MIT

package main

func newConnections(s *session) error  { return nil }
func datagrams(s *session) error       { return nil }
func strangers(s *session) error       { return nil }
func ipv6(s *session) error            { return nil }
func throughTC(s *session) error       { return nil }
func schedulers(s *session) error      { return nil }
func growServices(s *session) error    { return nil }
func growServers(s *session) error     { return nil }
func growConnections(s *session) error { return nil }
func memory(s *session) error          { return nil }
