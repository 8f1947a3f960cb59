// SPDX-License-Identifier: MIT

// Package api is how the command line, and later the web page and the metrics,
// talk to a running director: HTTP and JSON over a Unix socket that only root
// may use. It holds the types that travel, the server, the client, and how a
// client finds the director of its network namespace.
//
// It decides nothing. The director fills in a Handler and the types below; so
// package director imports api, and api knows nothing of it.
package api
