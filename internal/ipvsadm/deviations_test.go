// SPDX-License-Identifier: MIT

package ipvsadm

import "strings"

// deviation is a block of the recording that Run answers otherwise, on purpose.
type deviation struct {
	why   string
	apply func(recorded) recorded // the block as Run answers it
	then  []string                // what brings the table back to the recording's
}

// deviations is complete: a block that is not in it is answered to the byte,
// and TestRecording fails if one that is in it no longer differs. The key is
// the command and which of its occurrences it is.
func deviations() map[string]deviation {
	const (
		mapping    = "direct routing cannot map ports: refused, where ipvsadm takes the service's port without a word"
		thresholds = "saved rules have the thresholds, which ipvsadm forgets"
		nosort     = "services in the order of adding, where the kernel has that of its hash table"
		daemons    = "there are no synchronization daemons: refused by name"
		restoring  = "restoring makes all changes or none, names the line that is wrong, and accepts comments"
	)
	all := map[string]deviation{
		"ipvsadm -a -t 10.1.1.1:8000 -r 10.1.1.5:9999 -g #1": {why: mapping, apply: answer(255,
			"10.1.1.5:9999 for TCP 10.1.1.1:8000: direct routing cannot map ports, the packet arrives at the real server with port 8000: "+
				"use -r 10.1.1.5:8000, and let the real server map it: "+
				"shunt realserver start --method redirect --vip 10.1.1.1 --port 8000/tcp:9999"),
			then: []string{"ipvsadm -a -t 10.1.1.1:8000 -r 10.1.1.5:8000 -g"}},
		"ipvsadm -a -t 172.16.16.172:80 -r 172.16.16.185:81 -g #1": {why: mapping, apply: answer(255,
			"172.16.16.185:81 for TCP 172.16.16.172:80: direct routing cannot map ports, the packet arrives at the real server with port 80: "+
				"use -r 172.16.16.185:80, and let the real server map it: "+
				"shunt realserver start --method redirect --vip 172.16.16.172 --port 80/tcp:81"),
			then: []string{"ipvsadm -a -t 172.16.16.172:80 -r 172.16.16.185:80 -g"}},

		"ipvsadm -h #1": {why: "behind ipvsadm's help is what only shunt has", apply: func(b recorded) recorded {
			b.stdout += extensions
			return b
		}},

		"ipvsadm -Ln --nosort #1": {why: nosort, apply: inOrderOfAdding},

		"ipvsadm -R #2": {why: restoring, apply: answer(0, "")},
		"ipvsadm -S -n #4": {why: restoring, apply: printing("-A -t 172.16.16.172:80 -s wlc",
			"-a -t 172.16.16.172:80 -r 172.16.16.177:80 -g -w 1")},
		"ipvsadm -R #3": {why: restoring, apply: answer(255,
			"line 2: -A -t 172.16.16.172:80 -s rr: Service already exists (nothing was changed)")},
		"ipvsadm -S -n #5": {why: restoring, apply: printing()},
		"ipvsadm -R #4": {why: restoring, apply: answer(255,
			"line 2: nonsense: it does not begin with a command (-A, -E, -D, -C, -a, -e, -d, --set, --add-mark, --delete-mark, --add-deny, --delete-deny) (nothing was changed)")},
		"ipvsadm -S -n #6": {why: restoring, apply: printing()},
		"ipvsadm -R #5": {why: restoring, apply: answer(255,
			"line 1: -A -t 172.16.16.172:80 -s nosuch: Scheduler or persistence engine not found (nothing was changed)")},
		"ipvsadm -S -n #7": {why: restoring, apply: printing()},
		"ipvsadm -R #6": {why: restoring, apply: answer(255,
			"line 1: add-service -t 172.16.16.172:80 -s wlc: it does not begin with a command (-A, -E, -D, -C, -a, -e, -d, --set, --add-mark, --delete-mark, --add-deny, --delete-deny) (nothing was changed)")},

		"ipvsadm -L --daemon #3": {why: daemons, apply: printing()},
	}
	for _, key := range []string{"ipvsadm -S -n #2", "ipvsadm -S #2", "ipvsadm --save -n #1", "ipvsadm-save #1", "ipvsadm-save -n #1"} {
		all[key] = deviation{why: thresholds, apply: withThresholds}
	}
	for _, key := range []string{
		"ipvsadm --start-daemon master --mcast-interface in0 --syncid 3 #1",
		"ipvsadm --start-daemon master #1",
		"ipvsadm --start-daemon master --mcast-interface nosuch0 #1",
		"ipvsadm --start-daemon master --mcast-interface in0 --syncid 3 #2",
		"ipvsadm --start-daemon backup --mcast-interface in0 --syncid 4 #1",
	} {
		all[key] = deviation{why: daemons, apply: answer(255,
			"--start-daemon: connection synchronization between directors: not supported")}
	}
	for _, key := range []string{"ipvsadm --stop-daemon master #1", "ipvsadm --stop-daemon master #2", "ipvsadm --stop-daemon backup #1"} {
		all[key] = deviation{why: daemons, apply: answer(255,
			"--stop-daemon: connection synchronization between directors: not supported")}
	}
	return all
}

// answer is an exit code and a line of complaint.
func answer(exit int, stderr string) func(recorded) recorded {
	return func(b recorded) recorded {
		b.exit, b.stdout, b.stderr = exit, "", ""
		if stderr != "" {
			b.stderr = stderr + "\n"
		}
		return b
	}
}

// printing is success with these lines.
func printing(lines ...string) func(recorded) recorded {
	return func(b recorded) recorded {
		b.exit, b.stdout, b.stderr = 0, "", ""
		for _, line := range lines {
			b.stdout += line + "\n"
		}
		return b
	}
}

func withThresholds(b recorded) recorded {
	for _, port := range []string{"80", "http"} {
		line := "-r 172.16.16.178:" + port + " -g -w 2"
		b.stdout = strings.ReplaceAll(b.stdout, line+"\n", line+" -x 100 -y 50\n")
	}
	return b
}

// inOrderOfAdding sorts the listing's services; the servers, newest first, are
// in the kernel's order already.
func inOrderOfAdding(b recorded) recorded {
	lines := strings.SplitAfter(b.stdout, "\n")
	services := map[string]string{}
	name := ""
	for _, line := range lines[3:] {
		if f := strings.Fields(line); len(f) > 1 && f[0] != "->" {
			name = f[0] + " " + f[1]
		}
		services[name] += line
	}
	b.stdout = strings.Join(lines[:3], "")
	for _, name := range []string{"TCP 172.16.16.172:80", "TCP 172.16.16.172:443", "TCP 172.16.16.172:8080",
		"TCP 172.16.16.172:0", "UDP 172.16.16.172:53", "UDP 172.16.16.172:5060", "TCP 172.16.16.172:81",
		"TCP 172.16.16.172:82", "TCP 172.16.16.172:83", "FWM 7", "TCP 10.1.1.1:8000", "TCP [2001:db8::1]:80",
		"TCP [2001:db8::1]:443", "FWM 9"} {
		b.stdout += services[name]
	}
	return b
}
