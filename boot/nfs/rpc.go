package nfs

import "encoding/binary"

// Numbers of ONC RPC version 2 (RFC 5531).
const (
	rpcVersion = 2

	msgCall  = 0
	msgReply = 1

	replyAccepted = 0
	replyDenied   = 1

	acceptSuccess      = 0
	acceptProgUnavail  = 1
	acceptProgMismatch = 2
	acceptProcUnavail  = 3
	acceptGarbageArgs  = 4

	rejectMismatch = 0
	rejectAuth     = 1

	authBadCred      = 1
	authRejectedCred = 2

	authNone    = 0
	authSys     = 1
	authMaxBody = 400 // RFC 5531 section 8.2
	authMaxGids = 16

	nobody = 65534
)

// credentials are what AUTH_SYS claims about the caller.
type credentials struct {
	uid, gid uint32
	gids     [authMaxGids]uint32
	ngids    int
}

func (c *credentials) inGroup(gid uint32) bool {
	if c.gid == gid {
		return true
	}
	for _, g := range c.gids[:c.ngids] {
		if g == gid {
			return true
		}
	}
	return false
}

// call is one decoded request. args alias the record it came in.
type call struct {
	xid, prog, vers, proc uint32
	cred                  credentials
	args                  decoder
}

// verdict is what parseCall makes of a record.
type verdict uint8

const (
	callOK       verdict = iota
	callBroken           // too short to be answered: the stream cannot be trusted any more
	callIgnored          // a reply, which nobody here waits for
	callRPCVers          // not RPC version 2
	callBadCred          // credentials that do not decode
	callRejected         // a flavor that is not spoken here
)

// parseCall decodes the header of the record into q. Only q.xid is set for every answerable verdict.
func parseCall(rec []byte, q *call) verdict {
	d := decoder{b: rec}
	q.xid = d.u32()
	typ := d.u32()
	if d.bad {
		return callBroken
	}
	if typ != msgCall {
		return callIgnored
	}
	vers := d.u32()
	q.prog, q.vers, q.proc = d.u32(), d.u32(), d.u32()
	if d.bad {
		return callBroken
	}
	if vers != rpcVersion {
		return callRPCVers
	}
	flavor := d.u32()
	body := decoder{b: d.opaque(authMaxBody)}
	if d.bad {
		return callBadCred
	}
	d.u32() // the verifier is nothing for both flavors
	d.opaque(authMaxBody)
	if d.bad {
		return callBadCred
	}
	q.args = d
	q.cred.uid, q.cred.gid, q.cred.ngids = nobody, nobody, 0
	switch flavor {
	case authNone:
		return callOK
	case authSys:
		body.u32()       // stamp
		body.opaque(255) // machine name
		q.cred.uid, q.cred.gid = body.u32(), body.u32()
		n := body.u32()
		if n > authMaxGids {
			return callBadCred
		}
		for i := range n {
			q.cred.gids[i] = body.u32()
		}
		q.cred.ngids = int(n)
		if body.bad {
			return callBadCred
		}
		return callOK
	}
	return callRejected
}

// A reply starts with a record mark, which endReply fills in once the length is known.
func beginReply(b []byte, xid, stat uint32) []byte {
	b = append(b, 0, 0, 0, 0)
	b = put32(b, xid)
	b = put32(b, msgReply)
	b = put32(b, stat)
	return b
}

// beginAccepted starts the reply to a call that was understood.
func beginAccepted(b []byte, xid, stat uint32) []byte {
	b = beginReply(b, xid, replyAccepted)
	b = put64(b, authNone) // verifier: flavor and an empty body
	return put32(b, stat)
}

// endReply closes the record that starts at b[start] and goes on for extra bytes that follow b.
func endReply(b []byte, start, extra int) []byte {
	binary.BigEndian.PutUint32(b[start:], lastFragment|uint32(len(b)-start-4+extra))
	return b
}

// refuse appends the whole reply to a call with any verdict but callOK; nothing for those that get none.
func refuse(b []byte, xid uint32, v verdict) []byte {
	start := len(b)
	switch v {
	case callRPCVers:
		b = beginReply(b, xid, replyDenied)
		b = put32(b, rejectMismatch)
		b = put32(b, rpcVersion)
		b = put32(b, rpcVersion)
	case callBadCred, callRejected:
		b = beginReply(b, xid, replyDenied)
		b = put32(b, rejectAuth)
		if v == callBadCred {
			b = put32(b, authBadCred)
		} else {
			b = put32(b, authRejectedCred)
		}
	default:
		return b
	}
	return endReply(b, start, 0)
}

// A program is one RPC program in the one version it is spoken in.
type program struct {
	number, version uint32
	procs           []procedure
}

// A procedure appends its results to c.out, after the reply header. It returns false when the arguments do not decode;
// what it appended is then dropped.
type procedure struct {
	name string
	run  func(c *conn, q *call) bool
}

// lookupProc finds the procedure of a call, or the accept_stat that says why there is none.
func lookupProc(programs []program, q *call) (procedure, *program, uint32) {
	for i := range programs {
		p := &programs[i]
		if p.number != q.prog {
			continue
		}
		if p.version != q.vers {
			return procedure{}, p, acceptProgMismatch
		}
		if q.proc >= uint32(len(p.procs)) || p.procs[q.proc].run == nil {
			return procedure{}, p, acceptProcUnavail
		}
		return p.procs[q.proc], p, acceptSuccess
	}
	return procedure{}, nil, acceptProgUnavail
}
