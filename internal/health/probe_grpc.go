// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// mostGRPC is how many bytes a message and a set of headers may have.
const mostGRPC = 16 << 10

// grpc asks the health service, https://github.com/grpc/grpc/blob/master/doc/health-checking.md
func (p *Prober) grpc(ctx context.Context, c Check, e Endpoint) error {
	why := &cause{}
	var creds credentials.TransportCredentials
	usual := uint16(80)
	if c.GRPC.Plain {
		creds = insecure.NewCredentials()
	} else {
		config, err := p.tlsConfig(c.TLS, []string{"h2"})
		if err != nil {
			return err
		}
		creds, usual = handshaker{credentials.NewTLS(config), why}, 443
	}
	socket, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer socket.Close()
	dialer := once(socket)
	options := []grpc.DialOption{
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dialer() }),
		grpc.WithTransportCredentials(creds), grpc.WithUserAgent("shunt"),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithMaxHeaderListSize(mostGRPC), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostGRPC)),
	}
	if c.TLS.ServerName == "" { // which is the authority otherwise
		options = append(options, grpc.WithAuthority(hostOf("", e, usual)))
	}
	client, err := grpc.NewClient("passthrough:///"+hostOf("", e, 0), options...)
	if err != nil {
		return notAsked(err)
	}
	defer client.Close()
	answer, err := grpc_health_v1.NewHealthClient(client).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: c.GRPC.Service})
	if err != nil {
		return judgeGRPC(ctx, c.GRPC, err, why.err())
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("gRPC: %v, expected SERVING", answer.Status)
	}
	return nil
}

func judgeGRPC(ctx context.Context, g GRPCCheck, err, why error) error {
	if why != nil {
		return why
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded // however the library puts it
	}
	switch s := status.Convert(err); s.Code() {
	case codes.NotFound:
		return fmt.Errorf("gRPC: no service %s", quote(g.Service))
	case codes.Unimplemented:
		return fmt.Errorf("gRPC: no health service: %s", quote(s.Message()))
	default:
		text, _ := strings.CutPrefix(s.Message(), `connection error: desc = "`)
		return fmt.Errorf("gRPC: %v: %s", s.Code(), quote(strings.TrimSuffix(text, `"`)))
	}
}

// cause keeps the first error of a handshake. The library makes a text of it, and
// tries again.
type cause struct {
	mu   sync.Mutex
	kept error
}

func (c *cause) first(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = err
	}
	return err
}

func (c *cause) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept
}

// handshaker are credentials that keep why a handshake failed.
type handshaker struct {
	credentials.TransportCredentials
	why *cause
}

func (h handshaker) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return c, info, h.why.first(err)
}

func (h handshaker) Clone() credentials.TransportCredentials {
	return handshaker{h.TransportCredentials.Clone(), h.why}
}
