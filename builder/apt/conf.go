package apt

import (
	"bufio"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// HostProxy returns the proxy that the host's apt.conf names for a request (Acquire::http::Proxy, also per host, and
// the word DIRECT), and where it names none the one of the environment. It has the form of http.Transport.Proxy.
func HostProxy(hostRoot string) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		for _, scheme := range []string{req.URL.Scheme, "http"} { // https falls back to the setting of http, as in apt
			for _, name := range []string{"::Proxy::" + req.URL.Hostname(), "::Proxy"} {
				value, ok := hostSetting(hostRoot, "Acquire::"+scheme+name)
				switch {
				case !ok || value == "":
				case value == "DIRECT" || value == "false":
					return nil, nil
				default:
					return url.Parse(value)
				}
			}
		}
		return http.ProxyFromEnvironment(req)
	}
}

// hostSetting looks an option up in the host's apt.conf files: the last one that sets it wins. It understands the two
// spellings in use, Acquire::Check-Valid-Until "false"; and Acquire { Check-Valid-Until "false"; }.
func hostSetting(hostRoot, name string) (value string, ok bool) {
	etc := filepath.Join(hostRoot, "etc/apt")
	var files []string
	entries, _ := os.ReadDir(filepath.Join(etc, "apt.conf.d"))
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == "" || ext == ".conf") {
			files = append(files, filepath.Join(etc, "apt.conf.d", e.Name()))
		}
	}
	for _, path := range append(files, filepath.Join(etc, "apt.conf")) {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if v, found := findSetting(string(data), name); found {
			value, ok = v, true
		}
	}
	return value, ok
}

// findSetting walks over the tokens of one apt.conf file.
func findSetting(text, name string) (value string, ok bool) {
	var scope []string // the names before each open brace
	var words []string
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	comment := false
	for sc.Scan() {
		for _, tok := range confTokens(sc.Text(), &comment) {
			switch tok {
			case "{":
				scope, words = append(scope, strings.Join(words, "")), nil
			case "}":
				if len(scope) > 0 {
					scope = scope[:len(scope)-1]
				}
				words = nil
			case ";":
				if len(words) == 2 && strings.EqualFold(strings.Join(append(slices.Clone(scope), words[0]), "::"), name) {
					value, ok = strings.Trim(words[1], `"`), true
				}
				words = nil
			default:
				words = append(words, tok)
			}
		}
	}
	return value, ok
}

// confTokens cuts a line into words, quoted strings (with their quotes) and the characters { } ;. comment is whether a
// /* comment is open.
func confTokens(line string, comment *bool) []string {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " \t") {
		if *comment {
			_, after, ok := strings.Cut(line, "*/")
			if !ok {
				return out
			}
			line, *comment = after, false
			continue
		}
		switch {
		case line[0] == '#' || strings.HasPrefix(line, "//"):
			return out
		case strings.HasPrefix(line, "/*"):
			line, *comment = line[2:], true
		case strings.IndexByte("{};", line[0]) >= 0:
			out, line = append(out, line[:1]), line[1:]
		case line[0] == '"':
			end := strings.IndexByte(line[1:], '"')
			if end < 0 {
				return append(out, line)
			}
			out, line = append(out, line[:end+2]), line[end+2:]
		default:
			end := strings.IndexAny(line, " \t{};\"")
			if end < 0 {
				end = len(line)
			}
			out, line = append(out, line[:end]), line[end:]
		}
	}
	return out
}
