package recipe

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"netroot/builder/strictyaml"
)

// sshKey says what is wrong with a line of authorized_keys, if anything.
func sshKey(s string) error {
	switch {
	case strings.Contains(s, "PRIVATE KEY"):
		return errors.New("a private key, which must never leave its machine")
	case strings.ContainsAny(strings.TrimRight(s, "\n"), "\n\r"):
		return errors.New("more than one line: write each key as an item of its own")
	}
	_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(rest) > 0 {
		return errors.New("not an SSH public key")
	}
	return nil
}

func (c *checker) users() {
	first := map[string]string{}
	uids := map[int]string{}
	for i, u := range c.Users {
		at := fmt.Sprintf("$.users[%d]", i)
		c.word(at+".name", u.Name, userRE, "a login name: up to 32 lower-case letters, digits, hyphens and underscores, a letter first")
		if j, twice := first[u.Name]; twice {
			c.at(at+".name", "user %s is listed twice, first on line %d", u.Name, c.doc.Line(j))
		}
		first[u.Name] = at + ".name"

		if c.given(at+".password", u.Password) {
			if err := strictyaml.PasswordHash(u.Password); err != nil {
				c.at(at+".password", "%v", err).WithHint(`make one with: mkpasswd -m yescrypt; or "*" for none`)
			}
		}
		for k, key := range u.SSHKeys {
			if err := sshKey(key); err != nil {
				c.at(fmt.Sprintf("%s.ssh_keys[%d]", at, k), "%v", err).WithHint("paste the line of a .pub file: ssh-ed25519 AAAA... comment")
			}
		}
		if u.UID != nil {
			switch id := *u.UID; {
			case u.Name == "root":
				c.at(at+".uid", "root has the number 0 and no other")
			case id < 1 || id > 1<<32-2 || id == 65535:
				c.at(at+".uid", "%d is not a number for a user", id)
			case uids[id] != "":
				c.at(at+".uid", "number %d is also that of the user on line %d", id, c.doc.Line(uids[id]))
			default:
				uids[id] = at
			}
		}
		c.each(at+".groups", u.Groups, func(s string) error { return match(s, userRE, "the name of a group") })
		for _, p := range []struct{ key, value string }{{".shell", u.Shell}, {".home", u.Home}} {
			if c.doc.Has(at + p.key) {
				c.rootPath(at+p.key, p.value)
			}
		}
		if strings.ContainsAny(u.Shell+u.Home, ":") {
			c.at(at, "a colon in the shell or home of %s: /etc/passwd cannot hold it", u.Name)
		}
	}
}
