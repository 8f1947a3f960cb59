// SPDX-License-Identifier: MIT

package health

import "errors"

// ErrNotAsked is wrapped by errors that say nothing about the server: this host
// could not ask.
var ErrNotAsked = errors.New("not asked")
