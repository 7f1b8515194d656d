package storm

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// entry is what the configuration of pxelinux starts by itself.
type entry struct {
	kernel, initrd string
	server         netip.Addr
	port           uint16
	path           string // of the root
}

// parseEntry reads a configuration: the label that DEFAULT names or MENU DEFAULT marks, else the first.
func parseEntry(text string) (entry, error) {
	var all []entry
	chosen, word := 0, ""
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch key = strings.ToUpper(key); {
		case key == "DEFAULT":
			word = value
		case key == "LABEL":
			if value == word {
				chosen = len(all)
			}
			all = append(all, entry{})
		case len(all) == 0:
		case key == "MENU" && value == "DEFAULT":
			chosen = len(all) - 1
		case key == "KERNEL":
			all[len(all)-1].kernel = value
		case key == "INITRD":
			all[len(all)-1].initrd = value
		case key == "APPEND":
			for _, arg := range strings.Fields(value) {
				if root, ok := strings.CutPrefix(arg, "root=nfs:"); ok {
					if err := all[len(all)-1].root(root); err != nil {
						return entry{}, err
					}
				}
			}
		}
	}
	if len(all) == 0 || all[chosen].kernel == "" || all[chosen].path == "" {
		return entry{}, fmt.Errorf("the configuration starts nothing: %q", text)
	}
	return all[chosen], nil
}

// root reads SERVER:PATH:OPTIONS.
func (e *entry) root(s string) (err error) {
	server, rest, _ := strings.Cut(s, ":")
	path, options, _ := strings.Cut(rest, ":")
	if e.server, err = netip.ParseAddr(server); err != nil {
		return fmt.Errorf("root=nfs:%s: %w", s, err)
	}
	e.path, e.port = path, 2049
	for _, o := range strings.Split(options, ",") {
		if port, ok := strings.CutPrefix(o, "port="); ok {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return errors.Join(fmt.Errorf("root=nfs:%s", s), err)
			}
			e.port = uint16(n)
		}
	}
	return nil
}
