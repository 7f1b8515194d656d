package strictyaml

import (
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// flowTexts joins what the scanner takes apart: in a list [ ] inside a mapping { } it ends a word at each colon, and so reads a
// MAC address there as a key and its value. A colon with no space behind it is part of a word (YAML 1.2.2, 7.3.3).
func flowTexts(tokens token.Tokens) token.Tokens {
	var joined token.Tokens
	var flow []token.Type // what is open, innermost last
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow = append(flow, t.Type)
		case token.SequenceEndType, token.MappingEndType:
			flow = flow[:max(len(flow)-1, 0)]
		}
		inList := len(flow) > 0 && flow[len(flow)-1] == token.SequenceStartType
		for inList && i+2 < len(tokens) && plain(t) && tokens[i+1].Type == token.MappingValueType && plain(tokens[i+2]) && touch(t, tokens[i+1]) && touch(tokens[i+1], tokens[i+2]) {
			rest := tokens[i+2]
			t = token.String(t.Value+":"+rest.Value, t.Origin+":"+rest.Origin, t.Position)
			i += 2
		}
		joined.Add(t)
	}
	return joined
}

// plain says whether a token is a word without quotes.
func plain(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType,
		token.BoolType, token.NullType, token.InfinityType, token.NanType:
		return true
	}
	return false
}

// touch says whether b begins where a ends.
func touch(a, b *token.Token) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+utf8.RuneCountInString(a.Value) == b.Position.Column
}
