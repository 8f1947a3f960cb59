package config

import "github.com/shunt-lvs/shunt/internal/lvs"

type Difference struct {
	Text    string `json:"text"`
	Restart bool   `json:"restart,omitempty"`
}

func Diff(old, new *Config) []Difference                                            { return nil }
func DiffTable(want, have *lvs.Table, name func(lvs.ServiceID) string) []Difference { return nil }
func Edit(text []byte, want *lvs.Table) ([]byte, error)                             { return text, nil }
