// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// slowest is how long one request may take before it counts as failed.
const slowest = 5 * time.Second

// browser is an HTTP client whose connections come from a node.
type browser struct{ http.Client }

// newBrowser returns one that makes a new connection for every request or, if
// keep is true, keeps its connection.
func newBrowser(from *lab.Node, keep bool) *browser {
	return &browser{http.Client{
		Timeout: slowest,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return from.Dial(ctx, network, address)
			},
			DisableKeepAlives:   !keep,
			MaxIdleConnsPerHost: 1,
			IdleConnTimeout:     time.Minute,
		},
	}}
}

// get asks the virtual service for a page and returns who answered.
func (b *browser) get(ctx context.Context, path string) (server string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service()+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := b.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the answer was %s", resp.Status)
	}
	server = resp.Header.Get(serverHeader)
	if server == "" {
		return "", fmt.Errorf("answered by something that is no server of the demo")
	}
	return server, nil
}
