package main

import (
	"bytes"
	"encoding/json"
	"regexp"
)

const blotted = "(blotted out)"

// private is what nobody else should see, wherever it is: a hash as crypt(5) has them, a private key, a password in a URL.
var private = regexp.MustCompile(`\$(1|2[abxy]|5|6|7|y|gy|md5|sha1)\$[./A-Za-z0-9$=,+-]{8,}` +
	`|(?s:-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z ]*PRIVATE KEY( BLOCK)?-----|$))` +
	`|\b[a-z][a-z0-9+.-]*://[^\s/@:]+:[^\s/@]+@`)

// secretWord is a name of secrets in kernel command lines, YAML, JSON, ifcfg files and wpa_supplicant.conf. passwd alone is more often
// the file of that name.
const secretWord = `[\w.-]*(?:password|passphrase|rootpw|token|secret|psk|private[_-]?key|api[_-]?key)[\w-]*|[\w.-]+passwd|(?:wep|wpa|wireless)[_-]?key[0-9]*|\bkey[0-9]`

// named is a secret behind its name: after = or a colon, or, as interfaces(5), kickstart and preseed files have it, after a blank. Its first
// group is what stays.
var named = regexp.MustCompile(`(?i)((?:(?:` + secretWord + `)["']?[ \t]*[=:][ \t]*|\bpasswd[=:]` +
	`|\b(?:wpa-[a-z-]*(?:psk|pass[a-z]*|key[0-9]?)|wireless-key[0-9]?|rootpw(?:[ \t]+--[a-z]+)*|[\w/-]+password(?:-again)?[ \t]+password)[ \t]+))` +
	`(?:\\*"(?:[^"\\\n]|\\.)+|'[^'\n]+|[^\s"'\\]\S*)`)

var secretKey = regexp.MustCompile(`^(?i:` + secretWord + `|passwd)$`)

// blot takes out of a text what nobody else should see.
func blot(text []byte) []byte {
	return named.ReplaceAll(private.ReplaceAll(text, []byte(blotted)), []byte("${1}"+blotted))
}

// blottedJSON is JSON of v without what nobody else should see.
func blottedJSON(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var plain any
	if err := d.Decode(&plain); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err = e.Encode(blotIn(plain))
	return out.Bytes(), err
}

func blotIn(v any) any {
	switch v := v.(type) {
	case string:
		return string(blot([]byte(v)))
	case []any:
		for i := range v {
			v[i] = blotIn(v[i])
		}
	case map[string]any:
		for key, inner := range v {
			if text, ok := inner.(string); ok && text != "" && secretKey.MatchString(key) {
				v[key] = blotted
				continue
			}
			v[key] = blotIn(inner)
		}
	}
	return v
}
