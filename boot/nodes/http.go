package nodes

import (
	"encoding/json"
	"net/http"
)

// ServeHTTP answers with all machines as a JSON array of Machine.
func (t *Tracker) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(t.Machines())
}
