package seed

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"netroot/builder/strictyaml"
)

// ReportPath is where a machine reports, by POST, that it is installed.
const ReportPath = "/v1/installed"

// report adds the last command to what installs an operating system. It tries for a minute: a server may be starting again. When
// nobody answers the installation fails, and the machine stands still with a message instead of installing itself once more.
func report(kind Kind, name, text, server string) (string, error) {
	switch {
	case kind == Autoinstall && name == UserData:
		// Until September 2023 Subiquity ran commands with the library path of its own snap, with which the live system's curl does not
		// start (LP #2032961, canonical/subiquity#1811).
		return lateCommand(text, fmt.Sprintf("unset LD_LIBRARY_PATH; n=0; until %s || timeout 20 %s; do n=$((n+1)); [ $n -lt 12 ] || exit 1; sleep 5; done",
			byCurl(server), byBash(server)))
	case kind == KindPreseed && name == Preseed:
		return preseedCommand(text, server)
	case kind == KindKickstart && name == Kickstart:
		return kickstartPost(text, server), nil
	}
	return text, nil
}

func byCurl(server string) string {
	return "curl -fsS -m 10 -o /dev/null -X POST http://" + server + ReportPath
}

// byBash reports where there is no curl: bash reaches the network by itself.
func byBash(server string) string {
	host, port := hostPort(server)
	return fmt.Sprintf(`bash -c 'exec 3<>/dev/tcp/%s/%s && printf "POST %s HTTP/1.0\r\nHost: %s\r\n\r\n" >&3 && grep -q "^HTTP/1.. 200" <&3'`,
		host, port, ReportPath, server)
}

func hostPort(server string) (host, port string) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return server, "80"
	}
	return host, port
}

// lateCommand adds a command behind those under autoinstall: late-commands:. The text is changed in this one place and not written
// anew, because what YAML means is for the installer's own parser to say: to PyYAML "no" is a boolean. What came of it is read
// again and compared.
func lateCommand(text, command string) (string, error) {
	const way = "; write autoinstall: and its keys one a line, and late-commands: as a list with dashes"
	quoted := "'" + strings.ReplaceAll(command, "'", "''") + "'"
	auto, before, err := commands(text)
	if err != nil {
		return "", err
	}
	lines := strings.SplitAfter(text, "\n")
	if last := len(lines) - 1; lines[last] != "" {
		lines[last] += "\n"
	}
	at, added := 0, ""
	m, block := auto.(*ast.MappingNode)
	first, single := auto.(*ast.MappingValueNode)
	if block && !m.IsFlowStyle {
		first = m.Values[0]
	}
	switch list := lookup(auto, "late-commands").(type) {
	case nil:
		if !single && (!block || m.IsFlowStyle) {
			return "", errors.New("no place to add the command that reports the end" + way)
		}
		p := first.Key.GetToken().Position
		indent := strings.Repeat(" ", p.Column-1)
		at, added = p.Line-1, indent+"late-commands:\n"+indent+"  - "+quoted+"\n"
	case *ast.SequenceNode:
		if list.IsFlowStyle {
			return "", errors.New("late-commands: is a list in [ ], and the command that reports the end cannot be added" + way)
		}
		p := list.Start.Position
		at, added = after(pairs(auto), "late-commands", text, len(lines)), strings.Repeat(" ", p.Column-1)+"- "+quoted+"\n"
	default:
		return "", errors.New("late-commands: is not a list of its own" + way)
	}
	result := strings.Join(slices.Insert(lines, min(at, len(lines)), added), "")
	_, now, err := commands(result)
	if err != nil || !slices.Equal(now, append(before, command)) {
		return "", errors.New("the command that reports the end cannot be added" + way)
	}
	return result, nil
}

// after is the number of lines before the first that does not belong to the value of a key any more.
func after(list []*ast.MappingValueNode, name, text string, lines int) int {
	for i, p := range list {
		if key(p) == name && i+1 < len(list) {
			return list[i+1].Key.GetToken().Position.Line - 1
		}
	}
	// It is the last one below autoinstall: what follows begins in the first column.
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "autoinstall:"):
			inside = true
		case inside && line != "" && !strings.ContainsAny(line[:1], " \t#\r-"):
			return i
		}
	}
	return lines
}

// commands parses user-data; of each command it returns the text, or "" for one that is a list.
func commands(text string) (auto ast.Node, list []string, err error) {
	doc, err := strictyaml.Parse(UserData, []byte(text))
	if err != nil {
		return nil, nil, err
	}
	auto = lookup(doc.Root(), "autoinstall")
	if auto == nil {
		return nil, nil, errors.New("it has no key autoinstall")
	}
	if seq, ok := lookup(auto, "late-commands").(*ast.SequenceNode); ok {
		for _, v := range seq.Values {
			s, _ := words(v)
			list = append(list, s)
		}
	}
	return auto, list, nil
}

// lateQuestion is the one command that the Debian installer runs at the end. Of two the last counts.
const lateQuestion = "preseed/late_command"

// shellComment begins one in a command; in a line of a preseed file it would hide all that is added behind it.
var shellComment = regexp.MustCompile(`(^|[\s;&|(])#`)

// preseedCommand adds to preseed/late_command. The installer's wget cannot POST, its nc can.
func preseedCommand(text, server string) (string, error) {
	host, port := hostPort(server)
	command := fmt.Sprintf(`n=0; until printf 'POST %s HTTP/1.0\r\nHost: %s\r\n\r\n' | nc -w 10 %s %s | grep -q '^HTTP/1.. 200'; do n=$((n+1)); [ $n -lt 12 ] || exit 1; sleep 5; done`,
		ReportPath, server, host, port)
	var kept []string
	raw := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines := logical(strings.TrimRight(text, "\n"))
	theirs := ""
	for i, l := range lines {
		end := len(raw)
		if i+1 < len(lines) {
			end = lines[i+1].number - 1
		}
		f := strings.Fields(l.text)
		if len(f) >= 3 && f[1] == lateQuestion && f[2] == "string" {
			_, value, _ := strings.Cut(l.text, lateQuestion)
			theirs = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(value), "string"))
			continue
		}
		kept = append(kept, raw[l.number-1:end]...)
	}
	if theirs != "" {
		if shellComment.MatchString(theirs) {
			return "", errors.New(lateQuestion + " has a # in it, which would hide the command that reports the end: leave the comment out")
		}
		command = "( " + strings.TrimRight(theirs, "; \t") + " ) && { " + command + "; }"
	}
	kept = append(kept, "d-i "+lateQuestion+" string "+command)
	return strings.Join(kept, "\n") + "\n", nil
}

// kickstartPost adds a script that is run last.
func kickstartPost(text, server string) string {
	return strings.TrimRight(text, "\n") + fmt.Sprintf(`

%%post --interpreter=/bin/bash --erroronfail
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
  %s && exit 0
  %s && exit 0
  sleep 5
done
exit 1
%%end
`, byCurl(server), byBash(server))
}
