// SPDX-License-Identifier: MIT

package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what a keepalived.conf may expand to: its macros can double a line
// with each other line.
const (
	maxImportLines    = 50000
	maxImportLine     = 4 << 10
	maxImportSteps    = 200000
	maxImportMacros   = 1000 // in one line
	maxImportIncludes = 16
	maxImportNested   = 50 // macros of several lines in each other
)

// keepalivedLine is a line after macros and conditions.
type keepalivedLine struct {
	importPlace        // as it stands in the file
	expanded    string // without comment
	skipped     string // not empty: it does not count, and why
}

// macro is what a $NAME stands for: the rest of a line, or several lines.
type macro struct {
	text  string
	lines []rawLine // nil: text
}

// rawLine is a line before macros.
type rawLine struct {
	importPlace
	current string // what is left of it
}

// keepalivedReader reads lines, of included files as well.
type keepalivedReader struct {
	*importer
	macros map[string]macro
	out    []keepalivedLine
	steps  int
	depth  int    // of included files
	nested int    // of macros
	dir    string // of the file that is read
}

// file reads all lines of a file; name is empty for the one that is imported.
func (r *keepalivedReader) file(name string, text []byte) error {
	before := r.dir
	defer func() { r.dir = before }()
	path := name
	if path == "" {
		path = r.importer.file
	}
	r.dir = filepath.Dir(path)

	var many *macro // a definition of several lines that is not at its end
	var manyName string
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		at := importPlace{file: name, line: number, text: line}
		if many != nil {
			body, more := strings.CutSuffix(strings.TrimRight(line, " \t"), `\`)
			many.lines = append(many.lines, rawLine{at, body})
			if !more {
				r.macros[manyName], many = *many, nil
			}
			continue
		}
		bare := strings.TrimSpace(withoutComment(line))
		if words := strings.Fields(bare); len(words) > 0 && includeWord.MatchString(words[0]) {
			if err := r.include(at, words); err != nil {
				return err
			}
			continue
		}
		if m := definition.FindStringSubmatch(line); m != nil && strings.HasSuffix(strings.TrimSpace(m[2]), `\`) {
			manyName, many = m[1], &macro{lines: []rawLine{}}
			if first := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(m[2]), `\`)); first != "" {
				many.lines = append(many.lines, rawLine{at, first})
			}
			continue
		}
		if err := r.expand(rawLine{at, line}); err != nil {
			return err
		}
	}
	if many != nil {
		r.macros[manyName] = *many
	}
	return nil
}

var (
	includeWord = regexp.MustCompile(`^include[rmwba]?$`)
	definition  = regexp.MustCompile(`^\s*\$([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)
	condition   = regexp.MustCompile(`^@(\^?)(\S+)(\s.*|)$`)
	sequence    = regexp.MustCompile(`^~(SEQx?|LST)\(`)
	inBraces    = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	bareName    = regexp.MustCompile(`\$([A-Za-z_][A-Za-z0-9_]*)(\s|$)`)
)

// include reads the files that a pattern names, in their order.
func (r *keepalivedReader) include(at importPlace, words []string) error {
	if len(words) != 2 {
		return r.fail(at, words[0], "", "%s takes one file", words[0])
	}
	pattern := strings.Trim(words[1], `"`)
	if strings.Contains(pattern, "{") {
		return r.fail(at, words[1], "", "braces in the name of an included file are not understood: write one include for each")
	}
	path := pattern
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	if r.depth++; r.depth > maxImportIncludes {
		return r.fail(at, words[1], "", "files include each other more than %d deep", maxImportIncludes)
	}
	defer func() { r.depth-- }()
	paths := []string{path}
	if strings.ContainsAny(path, "*?[") {
		found, err := filepath.Glob(path)
		if err != nil {
			return r.fail(at, words[1], "", "included files: %v", err)
		}
		if len(found) == 0 {
			r.out = append(r.out, keepalivedLine{importPlace: at, skipped: "there is no such file on this machine"})
		}
		slices.Sort(found)
		paths = found
	}
	for _, path := range paths {
		if r.read == nil {
			return r.fail(at, words[1], "", "no other file can be read")
		}
		text, err := r.read(path)
		if err != nil {
			return r.fail(at, words[1], "", "the included file: %v", err)
		}
		if err := r.file(path, text); err != nil {
			return err
		}
	}
	return nil
}

// expand does what a line's macros and conditions ask for.
func (r *keepalivedReader) expand(l rawLine) error {
	r.nested++
	defer func() { r.nested-- }()
	for step := 0; ; step++ {
		if r.steps++; step > maxImportMacros || r.nested > maxImportNested || r.steps > maxImportSteps || len(r.out) > maxImportLines || len(l.current) > maxImportLine {
			return r.fail(l.importPlace, "", "", "the file's definitions lead to each other, to more than %d lines or to a line of more than %d bytes", maxImportLines, maxImportLine)
		}
		l.current = strings.TrimSpace(withoutComment(l.current))
		switch {
		case l.current == "":
			return nil
		case condition.MatchString(l.current):
			m := condition.FindStringSubmatch(l.current)
			if (m[2] == r.configID) == (m[1] == "^") {
				r.out = append(r.out, keepalivedLine{importPlace: l.importPlace, skipped: conditionReason(m[1], m[2])})
				return nil
			}
			l.current = m[3]
			continue
		case sequence.MatchString(l.current):
			return r.sequence(l)
		}
		if m := definition.FindStringSubmatch(l.current); m != nil {
			r.macros[m[1]] = macro{text: strings.TrimSpace(m[2])}
			return nil
		}
		before, m, after, found := r.firstMacro(l.current)
		if !found {
			if strings.Contains(l.current, "${_RANDOM") {
				return r.fail(l.importPlace, "${_RANDOM", "", "a random number is another one each time: write one down")
			}
			// What would have begun a comment before.
			text := strings.NewReplacer("${_HASH}", "#", "${_BANG}", "!").Replace(l.current)
			r.out = append(r.out, keepalivedLine{importPlace: l.importPlace, expanded: text})
			return nil
		}
		if m.lines == nil {
			l.current = before + m.text + after
			continue
		}
		for n, line := range m.lines {
			if n == 0 {
				line.current = before + line.current
			}
			if n == len(m.lines)-1 {
				line.current += after
			}
			if err := r.expand(line); err != nil {
				return err
			}
		}
		return nil
	}
}

func conditionReason(not, id string) string {
	if not != "" {
		return "not for the machine " + id + ", for which this was imported. One that is not this machine is named by --config-id"
	}
	return "for the machine " + id + " only, which this one is not: shunt has a file for each machine. For that one import with --config-id " + id
}

// firstMacro finds the first $NAME of a line that there is.
func (r *keepalivedReader) firstMacro(line string) (before string, m macro, after string, found bool) {
	first := len(line)
	for _, form := range []*regexp.Regexp{inBraces, bareName} {
		for _, at := range form.FindAllStringSubmatchIndex(line, -1) {
			if at[0] >= first {
				break
			}
			value, known := r.macro(line[at[2]:at[3]])
			if !known {
				continue
			}
			end := at[1]
			if form == bareName {
				end = at[3]
			}
			first, found = at[0], true
			before, m, after = line[:at[0]], value, line[end:]
			break
		}
	}
	return before, m, after, found
}

func (r *keepalivedReader) macro(name string) (macro, bool) {
	if m, known := r.macros[name]; known {
		return m, true
	}
	switch name {
	case "_PWD":
		return macro{text: r.dir}, true
	case "_INSTANCE":
		return macro{text: r.configID}, r.configID != ""
	}
	return macro{}, false
}

// sequence repeats the rest of a line.
func (r *keepalivedReader) sequence(l rawLine) error {
	kind, rest, _ := strings.Cut(l.current, "(")
	arguments, body, ok := cutClosing(rest)
	if !ok {
		return r.fail(l.importPlace, kind, "", "%s( is never closed", kind)
	}
	// What the arguments name counts now.
	for range 100 {
		before, m, after, found := r.firstMacro(arguments)
		if !found || m.lines != nil || len(arguments) > maxImportLine {
			break
		}
		arguments = before + m.text + after
	}
	var names []string
	var values [][]string
	var err error
	if kind == "~LST" {
		names, values, err = r.listValues(l.importPlace, arguments)
	} else {
		names, values, err = r.sequenceValues(l.importPlace, arguments, kind == "~SEQx")
	}
	if err != nil {
		return err
	}
	for _, row := range values {
		for n, name := range names {
			r.macros[name] = macro{text: row[n]}
		}
		if err := r.expand(rawLine{l.importPlace, body}); err != nil {
			return err
		}
	}
	return nil
}

func cutClosing(text string) (inside, after string, ok bool) {
	depth := 1
	for n, c := range text {
		switch c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return text[:n], text[n+1:], true
			}
		}
	}
	return "", "", false
}

var macroName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *keepalivedReader) sequenceValues(at importPlace, arguments string, hex bool) ([]string, [][]string, error) {
	parts := strings.Split(arguments, ",")
	bad := func() ([]string, [][]string, error) {
		return nil, nil, r.fail(at, arguments, "", "~SEQ takes (NAME, FIRST, STEP, LAST), (NAME, FIRST, LAST) or (NAME, LAST), not (%s)", arguments)
	}
	name := strings.TrimSpace(parts[0])
	if len(parts) < 2 || len(parts) > 4 || !macroName.MatchString(name) {
		return bad()
	}
	var numbers []int64
	for _, p := range parts[1:] {
		n, err := strconv.ParseInt(strings.TrimSpace(p), 0, 32)
		if err != nil {
			return bad()
		}
		numbers = append(numbers, n)
	}
	last := numbers[len(numbers)-1]
	first, step := int64(1), int64(1)
	if last < 0 {
		first = -1
	}
	if len(numbers) > 1 {
		first = numbers[0]
	}
	if last < first {
		step = -1
	}
	if len(numbers) == 3 {
		step = numbers[1]
	}
	if step == 0 || step > 0 && first > last || step < 0 && first < last || (last-first)/step > maxImportLines {
		return bad()
	}
	var values [][]string
	for n := first; step > 0 && n <= last || step < 0 && n >= last; n += step {
		text := strconv.FormatInt(n, 10)
		if hex {
			text = strconv.FormatInt(n, 16)
		}
		values = append(values, []string{text})
	}
	return []string{name}, values, nil
}

func (r *keepalivedReader) listValues(at importPlace, arguments string) ([]string, [][]string, error) {
	var rows [][]string
	for rest := strings.TrimSpace(arguments); rest != ""; {
		var item string
		if inner, braced := strings.CutPrefix(rest, "{"); braced {
			inside, after, closed := strings.Cut(inner, "}")
			if !closed {
				return nil, nil, r.fail(at, rest, "", "a { of ~LST is never closed")
			}
			item, rest = inside, strings.TrimSpace(after)
			rest = strings.TrimSpace(strings.TrimPrefix(rest, ","))
			var row []string
			for _, v := range strings.Split(item, ",") {
				row = append(row, strings.TrimSpace(v))
			}
			rows = append(rows, row)
			continue
		}
		item, rest, _ = strings.Cut(rest, ",")
		rest = strings.TrimSpace(rest)
		rows = append(rows, []string{strings.TrimSpace(item)})
	}
	if len(rows) < 2 {
		return nil, nil, r.fail(at, arguments, "", "~LST takes a name and at least one value")
	}
	for n, row := range rows {
		if len(row) != len(rows[0]) || n == 0 && slices.ContainsFunc(row, func(s string) bool { return !macroName.MatchString(s) }) {
			return nil, nil, r.fail(at, arguments, "", "~LST takes a name, or several in braces, and as many for each value")
		}
	}
	return rows[0], rows[1:], nil
}

// withoutComment cuts off what follows a # or ! that is not in double quotes.
func withoutComment(line string) string {
	inside := false
	for n := 0; n < len(line); n++ {
		switch line[n] {
		case '\\':
			n++
		case '"':
			inside = !inside
		case '#', '!':
			if !inside {
				return line[:n]
			}
		}
	}
	return line
}
