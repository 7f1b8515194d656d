// Package dpkg turns Debian packages into an installed root, as dpkg does, but quickly.
//
// Unpack reads each .deb once, into a cache that later builds share. Assemble makes a root folder of hard links into
// that cache, with dpkg's own database, in which every package is "unpacked". Configure then runs, in a session of
// package chroot whose overlay keeps the cache untouched, the preinst scripts and the root's own dpkg --configure.
// What results is what dpkg itself would have made: dpkg -V, apt-get check and a later apt-get install work in it.
//
// Where it differs from dpkg: the files of all packages are there before the first script runs. A preinst that looks
// for files of its own package finds them; one that diverts files (dpkg-divert) cannot bear that, so such packages are
// left to the root's dpkg, which unpacks them in their turn, unless dpkg itself needs them. Names of owners in an
// archive are not looked up in the root: the numbers count, which for the users a package may ship files of are fixed
// by Debian policy (9.2.2).
package dpkg
