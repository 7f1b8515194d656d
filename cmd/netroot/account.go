package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"netroot/boot/privilege"
	"netroot/builder/store"
)

// serverName is the user that serve runs as, and the group that may read the store.
const serverName = "netroot"

// account finds what serve is to run as: the user of that name; without a name the user netroot where there is one.
func account(name string) (a privilege.Account, reason string, err error) {
	unknown := user.UnknownUserError("")
	switch {
	case os.Geteuid() != 0:
		a, err = privilege.Lookup("", serverName)
		if err == nil && name != "" && name != a.Name {
			err = usageError{fmt.Errorf("--user %s: only root can serve as another user; this is %s", name, a.Name)}
		}
	case name != "":
		if a, err = privilege.Lookup(name, serverName); err != nil {
			err = usageError{fmt.Errorf("--user %s: %w", name, err)}
		}
	default:
		if a, err = privilege.Lookup(serverName, serverName); errors.As(err, &unknown) {
			a, err = privilege.Lookup("root", serverName)
			reason = "there is no user " + serverName + "; make one with: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin " + serverName
		}
	}
	return a, reason, err
}

// secure closes the store to everybody but root and the group netroot, and says what was open; a store of somebody who is not
// root, to everybody but him. What the server remembers there becomes its account's.
func secure(s *store.Store, a privilege.Account, log *slog.Logger) error {
	gid := store.NoGroup
	if os.Geteuid() == 0 {
		unknown := user.UnknownGroupError("")
		var err error
		if gid, err = groupID(serverName); errors.As(err, &unknown) {
			gid = store.NoGroup
		} else if err != nil {
			return fmt.Errorf("protect store: %w", err)
		}
	} else if st, err := os.Stat(s.Dir()); err != nil || int(st.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		return nil // it is for its owner to close
	}
	corrected, err := s.Protect(gid)
	for _, what := range corrected {
		log.Warn("corrected", "reason", what)
	}
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	return s.GiveState(a.UID, a.GID)
}

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("group %s has the ID %q", name, g.Gid)
	}
	return gid, nil
}

// settle gives up what was needed to open the ports.
func settle(a privilege.Account, reason string, s *store.Store, policy string, log *slog.Logger) error {
	if os.Geteuid() == 0 { // what was made since the start
		if err := s.GiveState(a.UID, a.GID); err != nil {
			return err
		}
	}
	kept := privilege.Drop(a)
	if kept != nil && !errors.Is(kept, privilege.ErrKept) {
		return kept
	}
	if err := readable(a, s, policy); err != nil {
		return err
	}
	switch {
	case kept != nil:
		log.Warn("runs", "user", a.Name, "reason", strings.TrimPrefix(reason+"; "+kept.Error(), "; "))
	case reason != "":
		log.Info("runs", "user", a.Name, "reason", reason)
	default:
		log.Info("runs", "user", a.Name)
	}
	return nil
}

// readable says what a server that has given up its privileges could not read any more, at the start instead of in the middle
// of a boot or when the policy is read again.
func readable(a privilege.Account, s *store.Store, policy string) error {
	look := func(path string, open func(string) error) error {
		if path == "" {
			return nil
		}
		if err := open(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("serve runs as user %s, who cannot read %s: %w; let the group %s read it (a store: netroot protect, as root), or serve with --user root", a.Name, path, err, serverName)
		}
		return nil
	}
	return errors.Join(
		look(filepath.Join(s.Dir(), "images"), func(path string) error {
			_, err := os.ReadDir(path)
			return err
		}),
		look(policy, func(path string) error {
			f, err := os.Open(path)
			if err == nil {
				f.Close()
			}
			return err
		}))
}
