package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"netroot/builder/atomicfile"
)

const (
	bootedPrefix    = "booted."    // + host: when it last began a boot
	installedPrefix = "installed." // + host: it has an operating system of its own
	maxFile         = 4 << 10
)

// A Ledger remembers of each host when it last began to boot and whether it is installed, in files of a folder: one for each fact,
// so that a server and a command can each change one without spoiling what the other knows.
//
// That a host is installed is on disk before anybody is told so. When a boot began is written a moment later, by Run.
type Ledger struct {
	dir string

	mu      sync.Mutex
	booted  map[string]Boot
	unsaved map[string]bool
	wake    chan struct{}
}

// A Boot is how a host's last boot began. Either time may be zero.
type Boot struct {
	Asked  time.Time `json:"asked"`  // it asked by DHCP what to boot
	Loaded time.Time `json:"loaded"` // it loaded the configuration or script that says so
}

// An Install is the end of an installation.
type Install struct {
	Time time.Time `json:"time"`
	By   string    `json:"by"` // who said so
	MAC  string    `json:"mac,omitempty"`
}

// OpenLedger reads what is kept in dir, which need not exist.
func OpenLedger(dir string) *Ledger {
	l := &Ledger{dir: dir, booted: map[string]Boot{}, unsaved: map[string]bool{}, wake: make(chan struct{}, 1)}
	files, _ := filepath.Glob(filepath.Join(dir, bootedPrefix+"*"))
	for _, file := range files {
		var b Boot
		if readJSON(file, &b) == nil {
			l.booted[strings.TrimPrefix(filepath.Base(file), bootedPrefix)] = b
		}
	}
	return l
}

func readJSON(file string, v any) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return fmt.Errorf("%s is not a small file", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// key is the name of a host in files. Names that differ in case only are one host's.
func key(host string) string { return strings.ToLower(host) }

// Asked and Loaded note the beginning of a boot.
func (l *Ledger) Asked(host string)  { l.note(host, func(b *Boot, now time.Time) { b.Asked = now }) }
func (l *Ledger) Loaded(host string) { l.note(host, func(b *Boot, now time.Time) { b.Loaded = now }) }

func (l *Ledger) note(host string, set func(*Boot, time.Time)) {
	l.mu.Lock()
	was := l.booted[key(host)]
	b := was
	set(&b, time.Now().UTC().Truncate(time.Second))
	l.booted[key(host)] = b
	if b != was {
		l.unsaved[key(host)] = true
	}
	l.mu.Unlock()
	if b == was { // whoever asks in a loop has the disk written to once a second
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Booted is what is known of a host's last boot.
func (l *Ledger) Booted(host string) Boot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.booted[key(host)]
}

// Run writes what is noted until ctx ends. What cannot be written is told once in a row.
func (l *Ledger) Run(ctx context.Context, log *slog.Logger) {
	failed := false
	for {
		select {
		case <-ctx.Done():
		case <-l.wake:
		}
		err := l.save()
		if err != nil && !failed {
			log.Warn("not kept", "service", "install", "reason", err.Error())
		}
		failed = err != nil
		if ctx.Err() != nil {
			return
		}
	}
}

func (l *Ledger) save() error {
	l.mu.Lock()
	todo := map[string]Boot{}
	for host := range l.unsaved {
		todo[host] = l.booted[host]
	}
	clear(l.unsaved)
	l.mu.Unlock()
	var errs []error
	for host, b := range todo {
		errs = append(errs, l.write(bootedPrefix+host, b))
	}
	return errors.Join(errs...)
}

func (l *Ledger) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.Mkdir(l.dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// The folder is closed to others; the file is for the server's user also when root wrote it.
	return atomicfile.Write(filepath.Join(l.dir, name), append(data, '\n'), 0o644)
}

// Installed says whether a host is, and how that came. It asks the disk, so that what a command changes counts at once.
func (l *Ledger) Installed(host string) (Install, bool) {
	file := filepath.Join(l.dir, installedPrefix+key(host))
	if _, err := os.Lstat(file); err != nil {
		return Install{}, false
	}
	var i Install
	_ = readJSON(file, &i) // that there is a file says enough: a machine that is not installed again loses nothing
	return i, true
}

// IsInstalled is Installed for a policy.
func (l *Ledger) IsInstalled(host string) bool {
	_, done := l.Installed(host)
	return done
}

// SetInstalled remembers that a host is installed; one that is already stays as it is.
func (l *Ledger) SetInstalled(host string, i Install) error {
	if _, done := l.Installed(host); done {
		return nil
	}
	if err := l.write(installedPrefix+key(host), i); err != nil {
		return fmt.Errorf("remember that %s is installed: %w", host, err)
	}
	return nil
}

// Reinstall has a host install itself again at its next boot. It says whether the host was installed.
func (l *Ledger) Reinstall(host string) (bool, error) {
	err := os.Remove(filepath.Join(l.dir, installedPrefix+key(host)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = atomicfile.SyncDir(l.dir)
	}
	if err != nil {
		return false, fmt.Errorf("have %s installed again: %w", host, err)
	}
	return true, nil
}
