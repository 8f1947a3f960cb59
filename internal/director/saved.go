// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The file of rules is written anew at each change, unless it is long: then a
// change is written behind it, as it was made, until that would be more than the
// table itself.
const (
	longFile = 1000 // rules
	header   = "# Written by shunt at each change. Edit it, then: shunt director reload\n"
	// headerOfSite is above the rules of a director that has a configuration, and
	// says of which one they are.
	headerOfSite = "# Written by shunt at each change. Do not edit it: the configuration is in %s, applied %s\n"
	// addition is above each change that was added. It says how many lines that
	// is, so that one of which the end is missing is known as such.
	addition = "# A change, lines: %d\n"
)

// saved is what is known of the file.
type saved struct {
	last  os.FileInfo // as this director has read or left it; nil: it is to be written anew
	added int         // lines of changes behind the table
}

// save writes the table, to which changes led, into the file.
func (d *director) save(changes []lvs.Change) error {
	long := d.long()
	var b bytes.Buffer
	write, added := link.AppendFile, d.saved.added+len(changes)
	var err error
	if long > longFile && added < long && d.unedited() {
		fmt.Fprintf(&b, addition, len(changes))
		err = ipvsadm.WriteChanges(&b, changes)
	} else {
		write, added = link.WriteFile, 0
		b.WriteString(headerOf(d.site))
		err = ipvsadm.WriteRules(&b, d.table, ipvsadm.CreationOrder())
	}
	if err != nil {
		return err
	}
	d.saved = saved{}
	if err := write(d.Rules(), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("save the rules: %w", err)
	}
	if now, err := os.Stat(d.Rules()); err == nil {
		d.saved = saved{now, added}
	}
	return nil
}

func headerOf(s *site) string {
	if s == nil {
		return header
	}
	return fmt.Sprintf(headerOfSite, strconv.Quote(s.Path), s.Applied.UTC().Format(time.RFC3339Nano))
}

// belongs tells whether the saved rules are those of a configuration, and not of
// one before it: whoever was killed between saving the one and the other has left
// them so.
func belongs(p api.Places, s *site) bool {
	text, err := os.ReadFile(p.Rules())
	return err == nil && bytes.HasPrefix(text, []byte(headerOf(s)))
}

// read notes the file as it is, of which the running rules come.
func (d *director) read(r rules) {
	d.saved = saved{r.file, max(0, len(r.all)-d.long())}
}

// long is how many rules the table has.
func (d *director) long() int {
	n := len(d.table.Services) + len(d.table.Marks)
	for _, servers := range d.uses {
		n += servers
	}
	for _, s := range d.table.Services {
		n += len(s.Deny)
	}
	return n
}

// unedited tells whether the file is as this director has read or left it.
func (d *director) unedited() bool {
	was := d.saved.last
	now, err := os.Stat(d.Rules())
	return err == nil && was != nil && os.SameFile(was, now) && was.Size() == now.Size() && was.ModTime().Equal(now.ModTime())
}

var errCutOff = errors.New("its last change is cut off")

// wholeChanges looks whether the last change that was added is there with all its
// lines. If not, the host died before it was saved: nobody was told that it was
// made, and a start goes on without it. While the director runs, someone has
// edited the file.
func (d *director) wholeChanges(text []byte) ([]byte, error) {
	at := bytes.LastIndex(text, []byte(addition[:bytes.IndexByte([]byte(addition), '%')]))
	var want int
	if at < 0 || at > 0 && text[at-1] != '\n' {
		return text, nil
	}
	if _, err := fmt.Sscanf(string(text[at:min(len(text), at+2*len(addition))]), addition, &want); err == nil && bytes.Count(text[at:], []byte("\n")) > want {
		return text, nil
	}
	if d.table != nil {
		return nil, fmt.Errorf("%w: it is said to have %d lines: correct or remove the line that says so", errCutOff, want)
	}
	d.log.Warn("the last change of the saved rules was not saved to its end: the rules are as before it", "lines", want)
	return text[:at], nil
}
