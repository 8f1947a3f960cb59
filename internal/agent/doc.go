// SPDX-License-Identifier: MIT

// Package agent is how a real server tells the director of its load, and how a
// weight follows from that.
//
// # Protocol
//
// The agent on the real server listens on TCP. The director connects, asks once,
// and both close. Each message is one line of text, at most 4 KiB:
//
//	director   shunt-agent 1 NONCE
//	agent      nonce NONCE
//	director   proof MAC
//	agent      report MAC JSON        or: refused secret
//
// A NONCE is 32 random bytes, new for each connection, in hexadecimal. A MAC is
// HMAC-SHA256 with the shared secret as its key, in hexadecimal, over
//
//	LABEL 0x00 (the director's nonce) (the agent's nonce) JSON
//
// with the label "shunt-agent 1 director" and no JSON for the proof, and the label
// "shunt-agent 1 agent" for the report.
//
// What follows from it:
//   - The agent tells nothing to who does not know the secret: the proof comes
//     first.
//   - The director believes nobody who does not know the secret, and no report
//     that was changed.
//   - Nothing that was recorded can be used again: each side has a new nonce in
//     what the other one has to prove.
//   - Neither side's proof can be sent back to it as the other's: the labels differ.
//   - A report says at which address it was asked for. So where several servers
//     have one secret, nobody can lead a question to another one of them.
//   - Who pretends to be an agent gets a proof, on which guesses can be tried: so
//     a secret has at least 16 bytes, and is best random.
//
// Nothing is encrypted: that a server is at 37 percent is no secret. Who is in
// between can make the connection fail, which is what an agent that is down looks
// like.
//
// # HAProxy's agent-check
//
// AskHAProxy asks agents that speak the text protocol of HAProxy's agent-check
// instead. It has no authentication.
package agent
