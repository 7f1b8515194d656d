package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestBlot(t *testing.T) {
	for _, secret := range []string{
		"password=hunter2", "password: hunter2", "Password:hunter2", `password: "hunter2 hunter2"`, "password = 'hunter2 hunter2'", `"password": "hunter2"`, `"root_password":"hunter2 \\ \" hunter2"`,
		"psk=hunter2", `psk="hunter2 hunter2"`, "wpa-psk hunter2", "\twpa-psk\thunter2", "wpa-passphrase hunter2", "wpa_passphrase=hunter2", "wireless-key1 s:hunter2", "wep_key0=hunter2", "KEY1=s:hunter2",
		"WPA_PSK='hunter2 x'", "rootpw hunter2", "rootpw --plaintext hunter2", "d-i passwd/root-password password hunter2", "d-i passwd/user-password-again password hunter2",
		"plain_text_passwd: hunter2", "passwd=hunter2", "rootpw: hunter2", "token: hunter2", "api_key=hunter2", "--password=hunter2", "client-secret: hunter2",
		`changed in the copy: /etc/network/interfaces: \"wpa-psk hunter2\" taken out`, `x: \"psk=\\\"hunter2 hunter2\\\"\" y`, "passphrase: |hunter2",
		"http://me:hunter2@mirror/x", "$6$SPjKoh.hFKYQB8fv$hunter2hunter2",
		"https://hunter2@mirror/", "HTTPS://me:hunter2@mirror", "https://:hunter2@mirror", "https://hunter2:@mirror", "https://me:p@hunter2@mirror/x", "https://me:hunter2/hunter2@mirror/x",
		"url_https://hunter2@mirror", "git+SSH://hunter2@mirror/x", "http://[fd00::1]/x http://hunter2@[fd00::1]/x",
		"password: |\n  hunter2", "password: |-\n\n    hunter2\n  hunter2\n", "  root_password: >2\r\n    hunter2\r\n  user: me", "- token: !!str |\n    hunter2\n  user: me", `"passphrase": |  # mine` + "\n  hunter2",
		"password: hunter2\n  hunter2", "password:\n  hunter2", "password: \"hunter2\n\n  hunter2\"", "passwords:\n- hunter2\n- hunter2", "tokens:\n  - of: hunter2", "> 3 | password: |\n  4 |   hunter2\n  5 | user: me",
		`msg="passphrase: |\n  hunter2\n\n  a \\ hunter2\nuser: me"`,
	} {
		got := string(blot([]byte("before\n" + secret + "\nafter\n")))
		if strings.Contains(got, "hunter2") || !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\nafter\n") {
			t.Errorf("%s gave %q", secret, got)
		}
	}
	for _, open := range []string{
		"vmegr login: root\nPassword:\nLast login: today", "open /etc/passwd: no such file", "which `passwd:` in /etc/nsswitch.conf needs", "/etc/passwd is missing", "the root password is locked",
		"key: value", "sha256: 0123", "passwordless login", "a key that rpm was given", `"Kernel": {"cmdline": ["console=ttyS0"]}`,
		"http://mirror:8080/linux@6.1/x", "http://[fd00::1]:8080/linux@6.1", "mail me@mirror/x", "password of whom?\n  the user's", "files: |\n  a\nuser: me", "- token: \n  user: me",
	} {
		if got := string(blot([]byte(open))); got != open && open != "which `passwd:` in /etc/nsswitch.conf needs" {
			t.Errorf("%s became %s", open, got)
		}
	}
}

func TestBlotJSON(t *testing.T) {
	v := map[string]any{
		"password": `a "hunter2" b\`, "notes": []string{`"wpa-psk hunter2" taken out`, `"psk=\"hunter2 x\"" is now ""`, `password: "hunter2"`, "Password: "},
		"cmdline": []string{"password=hunter2", "quiet"}, "url": "http://me:hunter2@mirror/x", "after": "<seen>", "size": 12345678901234567,
		"inner": map[string]any{"root_password": "hunter2", "passwd": "hunter2", "token": "", "secrets": []any{"hunter2", map[string]any{"of": "hunter2", "none": nil}}, "psk": 12345678},
	}
	out, err := blottedJSON(v)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "after": "<seen>",
 "cmdline": [
  "password=(blotted out)",
  "quiet"
 ],
 "inner": {
  "passwd": "(blotted out)",
  "psk": "(blotted out)",
  "root_password": "(blotted out)",
  "secrets": [
   "(blotted out)",
   {
    "none": null,
    "of": "(blotted out)"
   }
  ],
  "token": ""
 },
 "notes": [
  "\"wpa-psk (blotted out) taken out",
  "\"psk=(blotted out)\" is now \"\"",
  "password: (blotted out)\"",
  "Password: "
 ],
 "password": "(blotted out)",
 "size": 12345678901234567,
 "url": "(blotted out)mirror/x"
}
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzBlot puts a secret in every kind of place, among any other lines.
func FuzzBlot(f *testing.F) {
	no := func(chars string) func(string) bool {
		return func(s string) bool {
			return !strings.ContainsAny(s, chars) && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || unicode.IsSpace(r) })
		}
	}
	places := []struct {
		before, after string
		fits          func(secret string) bool // what the place can hold
	}{
		{"password=", " quiet", no(`"'\`)},
		{"  password: ", "", no(`"'\`)},
		{`{"password": "`, `"}`, no(`"\`)},
		{"psk='", "'", no("'")},
		{"https://me:", "@mirror/x", no("/")},
		{"see HTTPS://", "@mirror/x", no("/")},
		{"password: |\n  ", "", no("")},
		{"- name: x\n  token: >-\n\n      ", "\n  user: me", no("")},
		{"$6$salt$", "", func(s string) bool { return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789./") == "" }},
	}
	for i := range places {
		f.Add("before", "", "after", uint8(i))
		f.Add("password:", "p@ss:w|", "  deeper", uint8(i))
		f.Add("  7 | token: |", "/7", "\xff", uint8(i))
	}
	f.Fuzz(func(t *testing.T, before, tail, after string, at uint8) {
		const known = "hunter2hunter2"
		place := places[int(at)%len(places)]
		secret := known + tail + known
		if !place.fits(secret) || !utf8.ValidString(tail) || strings.Contains(before+after, known) {
			t.Skip()
		}
		text := before + "\n" + place.before + secret + place.after + "\n" + after
		if got := string(blot([]byte(text))); strings.Contains(got, known) {
			t.Errorf("%q became %q", text, got)
		}
	})
}
