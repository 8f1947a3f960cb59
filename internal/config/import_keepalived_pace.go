// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"strconv"
	"time"
)

// keepalivedPace is how often a checker asks.
type keepalivedPace struct {
	loop, timeout time.Duration
	retry         int           // -1: the checker's default
	retryDelay    time.Duration // -1: the checker's default
}

func keepalivedDefaults() keepalivedPace {
	return keepalivedPace{loop: 60 * time.Second, timeout: 5 * time.Second, retry: -1, retryDelay: -1}
}

// read takes a line if it is about the pace.
func (p *keepalivedPace) read(k *keepalivedFile, s *statement) (handled bool, err error) {
	switch s.name() {
	case "delay_loop":
		p.loop, err = k.timer(s)
	case "connect_timeout":
		p.timeout, err = k.timer(s)
	case "delay_before_retry":
		p.retryDelay, err = k.timer(s)
	case "retry", "nb_get_retry", "nb_sock_retry":
		p.retry, err = k.number(s.importPlace, s.name(), s.word(1), 0, 999)
	default:
		return false, nil
	}
	return true, err
}

// timer reads a time in seconds, with a fraction.
func (k *keepalivedFile) timer(s *statement) (time.Duration, error) {
	seconds, err := strconv.ParseFloat(s.word(1), 64)
	if err != nil || !(seconds >= 0 && seconds <= 4294) {
		return 0, k.fail(s.importPlace, s.word(1), "", "%s takes seconds, up to 4294, not %q", s.name(), s.word(1))
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond), nil
}

// paces makes one pace of keepalived's two: that of a server that is well, and
// that of one that is asked again after a failure.
func (c *checker) paces() (pace []yamlPair, remarks []importComment) {
	p := c.asked.pace
	retry, delay, timeout := p.retry, p.retryDelay, p.timeout
	if retry < 0 {
		retry = c.retry
	}
	if delay < 0 {
		delay = c.delay
	}
	if delay < 0 {
		delay = p.loop
	}
	if c.at.name() == "MISC_CHECK" {
		if timeout = c.timeout; timeout == 0 {
			timeout = p.loop
		}
	}
	fall := retry + 1
	whole := p.loop + time.Duration(retry)*delay
	interval := whole / time.Duration(fall)
	unit := 100 * time.Millisecond
	switch {
	case interval >= 10*time.Second:
		unit = time.Second
	case interval < time.Second:
		unit = time.Millisecond
	}
	interval = max(interval.Truncate(unit), 10*time.Millisecond)
	if interval != p.loop {
		remarks = append(remarks, importRemark("keepalived asks every %s, and after a failure %s: a server is out after %s. shunt has one pace, at which %d failures take as long.",
			yamlDuration(p.loop), retries(retry, delay), yamlDuration(whole), fall))
	}
	if longest := interval * time.Duration(fall); timeout > longest {
		remarks = append(remarks, importRemark("keepalived waits %s for an answer, and for so long does not ask again; shunt waits no longer than its failures take.", yamlDuration(timeout)))
		timeout = longest
	}
	timeout = max(timeout, time.Millisecond)
	return []yamlPair{{"interval", yamlDuration(interval)}, {"timeout", yamlDuration(timeout)}, {"rise", "1"}, {"fall", strconv.Itoa(fall)}}, remarks
}

func retries(n int, delay time.Duration) string {
	if n == 1 {
		return "once more, " + yamlDuration(delay) + " later"
	}
	return fmt.Sprintf("%d more times, %s apart", n, yamlDuration(delay))
}
