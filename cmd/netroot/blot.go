package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
)

const blotted = "(blotted out)"

// private is what nobody else should see, wherever it is: a hash as crypt(5) has them, a private key, whatever stands before the host of a
// URL: a user and a password, with a slash in it that should have been %2F, or a token alone.
var private = regexp.MustCompile(`\$(1|2[abxy]|5|6|7|y|gy|md5|sha1)\$[./A-Za-z0-9$=,+-]{8,}` +
	`|(?s:-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z ]*PRIVATE KEY( BLOCK)?-----|$))` +
	`|(?i:[a-z][a-z0-9+.-]*)://(?:[^\s/@:\[]*:[^\s/@]*[^\s/@0-9][^\s/@]*/\S*|[^\s/]*)@`)

// secretWord is a name of secrets in kernel command lines, YAML, JSON, ifcfg files and wpa_supplicant.conf. passwd alone is more often
// the file of that name.
const secretWord = `[\w.-]*(?:password|passphrase|rootpw|token|secret|psk|private[_-]?key|api[_-]?key)[\w-]*|[\w.-]+passwd|(?:wep|wpa|wireless)[_-]?key[0-9]*|\bkey[0-9]`

// named is a secret behind its name: after = or a colon, or, as interfaces(5), kickstart and preseed files have it, after a blank. Its first
// group is what stays.
var named = regexp.MustCompile(`(?i)((?:(?:` + secretWord + `)["']?[ \t]*[=:][ \t]*|\bpasswd[=:]` +
	`|\b(?:wpa-[a-z-]*(?:psk|pass[a-z]*|key[0-9]?)|wireless-key[0-9]?|rootpw(?:[ \t]+--[a-z]+)*|[\w/-]+password(?:-again)?[ \t]+password)[ \t]+))` +
	`(?:[|>][-+0-9]*(?:(?:\\+n)+[ \t]+(?:[^\\"\n]|\\[^n\n])*)+|\\*"(?:[^"\\\n]|\\.)+|'[^'\n]+|[^\s"'\\]\S*)`)

var secretKey = regexp.MustCompile(`^(?i:` + secretWord + `|passwd)$`)

// keyLine is a line of YAML with a secret's name as its key, perhaps quoted in a listing with numbers. Its first group is what stands before
// the key.
var keyLine = regexp.MustCompile(`^((?:[ >]*[0-9]+ \| ?)?[ \t]*(?:- +)*)["']?(?i:` + secretWord + `|passwd)["']?[ \t]*:(.*)`)

// blot takes out of a text what nobody else should see. What follows a YAML key with "? " before it, or an alias, it does not know.
func blot(text []byte) []byte {
	return named.ReplaceAll(private.ReplaceAll(blotLines(text), []byte(blotted)), []byte("${1}"+blotted))
}

// blotLines takes out the lines that continue the value of a secret: block and multi-line scalars, lists and maps of YAML are indented
// deeper than their key (YAML 1.2, 8.1 and 8.2); a list may stand right below it.
func blotLines(text []byte) []byte {
	var out bytes.Buffer
	var key string // what stands before it, as blanks; blank lines are part of what follows
	var inside, list, told bool
	for line := range strings.Lines(string(text)) {
		rest := line
		if m := numbered.FindString(line); m != "" && inside {
			rest = strings.Repeat(" ", len(m)) + line[len(m):]
		}
		content := strings.TrimLeft(rest, " \t")
		indent := len(rest) - len(content)
		content = strings.TrimSpace(content)
		if inside && (content == "" || indent > len(key) || list && indent == len(key) && (content == "-" || strings.HasPrefix(content, "- "))) {
			if content == "" {
				out.WriteString(line)
			} else if !told {
				told = true
				out.WriteString(key + "  " + blotted + "\n")
			}
			continue
		}
		inside, told = false, false
		if m := keyLine.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
			inside, list, key = true, strings.TrimSpace(m[2]) == "", strings.Repeat(" ", len(m[1]))
		}
		out.WriteString(line)
	}
	return out.Bytes()
}

// numbered is what a listing puts before a line.
var numbered = regexp.MustCompile(`^[ >]*[0-9]+ \| ?`)

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
			if secretKey.MatchString(key) {
				v[key] = blotWhole(inner)
				continue
			}
			v[key] = blotIn(inner)
		}
	}
	return v
}

// blotWhole takes out the texts of a value that has the name of a secret.
func blotWhole(v any) any {
	switch v := v.(type) {
	case string:
		if v != "" {
			return blotted
		}
	case json.Number:
		return blotted
	case []any:
		for i := range v {
			v[i] = blotWhole(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = blotWhole(v[key])
		}
	}
	return v
}
