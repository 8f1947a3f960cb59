// SPDX-License-Identifier: MIT

package config

import (
	"encoding/json"
	"reflect"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

// SchemaID is where editors find the schema.
const SchemaID = "https://raw.githubusercontent.com/shunt-lvs/shunt/main/docs/shunt.schema.json"

// Schema gives the JSON Schema (2020-12) of the file, for editors. It is made of
// what Parse reads by, so it accepts what is well-formed; what only the whole file
// can tell, such as a name that two services have, is Parse's to say.
func Schema() []byte {
	w := &schemaWriter{defs: schema{}}
	root := w.object(reflect.TypeFor[fileKeys](), "")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "A site of shunt"
	root["description"] = "A director, its virtual services and what is checked about their servers, or a real server."
	root["patternProperties"] = schema{"^x-": true}
	root["minProperties"] = 1
	root["$defs"] = w.defs
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // of maps, lists and texts there is none
	}
	return append(text, '\n')
}

type schemaWriter struct{ defs schema }

// of is the schema of a type of keys.go or values.go.
func (w *schemaWriter) of(t reflect.Type, tag reflect.StructTag) schema {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := reflect.New(t).Interface().(type) {
	case scalar:
		return v.schema(tag)
	case collection:
		if v.isNamed() {
			return schema{"type": "object", "additionalProperties": w.of(v.element(), ""),
				"propertyNames": schema{"pattern": forms[tag.Get("form")].pattern.String()}}
		}
		return schema{"type": "array", "items": w.of(v.element(), tag)}
	case short:
		return schema{"anyOf": append(v.shorter(), w.ref(t))}
	}
	return w.ref(t)
}

// ref names a struct, which is written once.
func (w *schemaWriter) ref(t reflect.Type) schema {
	name := strings.TrimSuffix(t.Name(), "Keys")
	if name == "checkUse" {
		return w.ref(reflect.TypeFor[checkKeys]())
	}
	if w.defs[name] == nil {
		w.defs[name] = schema{} // it may be within itself
		if _, kinds := t.FieldByName("Type"); kinds {
			w.defs[name] = w.byKind(t, name)
		} else {
			w.defs[name] = w.object(t, "")
		}
	}
	return schema{"$ref": "#/$defs/" + name}
}

// byKind is the schema of a check: which keys it may have depends on its type.
func (w *schemaWriter) byKind(t reflect.Type, name string) schema {
	var all []schema
	for _, kind := range vocabulary("kind") {
		w.defs[name+"-"+kind] = w.object(t, kind)
		all = append(all, schema{
			"if":   schema{"properties": schema{"type": schema{"const": kind}}, "required": []string{"type"}},
			"then": schema{"$ref": "#/$defs/" + name + "-" + kind},
		})
	}
	return schema{"type": "object", "required": []string{"type"}, "allOf": all,
		"properties": schema{"type": schema{"enum": vocabulary("kind"), "description": "What is asked."}}}
}

// object is the schema of a struct: its keys, those of a kind only if there is one.
func (w *schemaWriter) object(t reflect.Type, kind string) schema {
	properties := schema{}
	var required []string
	for _, f := range fieldsOf(t) {
		if kind != "" && !f.of(kind) {
			continue
		}
		p := w.of(f.typ, f.tag)
		if kind != "" && f.key == "type" {
			p = schema{"const": kind}
		}
		if doc := f.tag.Get("doc"); doc != "" {
			p["description"] = doc
		}
		if d := f.tag.Get("default"); d != "" {
			p["description"] = p["description"].(string) + " Default: " + d + "."
		}
		properties[f.key] = p
		if f.required {
			required = append(required, f.key)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	if either := eitherOf(t); len(either) > 0 {
		var one []schema
		for _, key := range either {
			one = append(one, schema{"required": []string{key}})
		}
		s["oneOf"] = one
	}
	return s
}

func textTypes() []string { return []string{"string", "number", "boolean"} }

func (*text) schema(tag reflect.StructTag) schema {
	s := schema{"type": textTypes()}
	if f, ok := forms[tag.Get("form")]; ok {
		if !f.anyScalar {
			s["type"] = "string"
		}
		s["pattern"] = f.pattern.String()
	}
	if tag.Get("empty") == "" {
		s["minLength"] = 1
	}
	return s
}

func (*vlan) schema(reflect.StructTag) schema { return (*text)(nil).schema(`form:"vlan"`) }
func (*value) schema(reflect.StructTag) schema {
	return (*text)(nil).schema(`form:"line" empty:"yes"`)
}

func (*word) schema(tag reflect.StructTag) schema {
	return schema{"enum": vocabulary(tag.Get("words"))}
}

func (*number) schema(tag reflect.StructTag) schema {
	low, high := limits(tag)
	return schema{"type": "integer", "minimum": low, "maximum": high}
}

func (*flag) schema(reflect.StructTag) schema { return schema{"type": "boolean"} }

func (*duration) schema(tag reflect.StructTag) schema {
	low, _ := parseDuration(tag.Get("min"))
	s := schema{"type": []string{"string", "number"}, "pattern": durationForm.String(), "minimum": low.Seconds()}
	if high, limited := parseDuration(tag.Get("max")); limited {
		s["maximum"] = high.Seconds()
	}
	if tag.Get("whole") != "" {
		s["multipleOf"] = 1
	}
	return s
}

func pattern(p string) schema { return schema{"type": "string", "pattern": p} }

func (*share) schema(reflect.StructTag) schema { return pattern(shareForm.String()) }

// Addresses are told roughly: editors need not know better than Parse.
const addressPattern = `^[0-9A-Fa-f:.]+$`

func (*address) schema(reflect.StructTag) schema { return pattern(addressPattern) }

func (*endpoint) schema(tag reflect.StructTag) schema {
	if tag.Get("port") == "optional" {
		return pattern(`^([0-9.]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9A-Fa-f:.]+)$`)
	}
	return pattern(`^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`)
}

func (*prefix) schema(reflect.StructTag) schema { return pattern(`^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$`) }
func (*match) schema(reflect.StructTag) schema {
	return pattern(`^(tcp|udp|sctp) +([0-9.]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+)(:[0-9]{1,5}(-[0-9]{1,5})?)?$`)
}

func (*rate) schema(reflect.StructTag) schema {
	return schema{"type": []string{"string", "integer"}, "pattern": rateForm.String(), "minimum": 1, "maximum": lvs.MaxSourceLimit}
}

func (*mask) schema(reflect.StructTag) schema {
	return schema{"type": []string{"string", "integer"}, "pattern": `^[0-9]+(\.[0-9]+){3}$`, "minimum": 1, "maximum": 128}
}

func (*bounds) schema(reflect.StructTag) schema { return pattern(boundsForm.String()) }

func (*statuses) schema(reflect.StructTag) schema {
	one := schema{"type": []string{"string", "integer"}, "pattern": statusForm.String(), "minimum": 100, "maximum": 599}
	return schema{"anyOf": []schema{one, {"type": "array", "items": one, "minItems": 1}}}
}
