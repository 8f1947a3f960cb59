// SPDX-License-Identifier: MIT

package main

import "testing"

const wrkSaid = `Running 1s test @ http://172.16.16.172/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   461.45us  434.26us   7.81ms   94.86%
    Req/Sec    35.11k     2.77k   38.42k    80.00%
  Latency Distribution
     50%  351.00us
     75%  447.00us
     90%  781.00us
     99%    2.38ms
  34930 requests in 1.00s, 5.56MB read
Requests/sec:  34861.94
Transfer/sec:      5.55MB
`

func TestReadWrk(t *testing.T) {
	o, err := readWrk([]byte(wrkSaid), 1)
	if err != nil || o.rate != 34861.94 || o.median != 0.351 || o.tail != 2.38 || o.packets < 31000 || o.packets > 34861 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"", wrkSaid + "  Socket errors: connect 0, read 1, write 0, timeout 0\n", wrkSaid + "  Non-2xx or 3xx responses: 3\n",
		"Requests/sec:      0.00\n     50%    0.00us\n     99%    0.00us\n"} {
		if o, err := readWrk([]byte(bad), 1); err == nil {
			t.Errorf("%+v of\n%s", o, bad)
		}
	}
}

func TestReadIperf(t *testing.T) {
	const said = `{"start": {}, "end": {"sum_sent": {"bytes": 4000000, "bits_per_second": 32000000, "sender": true},
		"sum_received": {"bytes": 3000000, "bits_per_second": 24000000, "sender": true}}}`
	if o, err := readIperf([]byte(said), 1); err != nil || o.rate != 24e6 || o.packets != 2000 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"", "{}", `{"error": "unable to connect to server"}`} {
		if o, err := readIperf([]byte(bad), 1); err == nil {
			t.Errorf("%+v of %s", o, bad)
		}
	}
}
