package vm

import (
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	for _, tt := range []struct{ in, arch, want string }{
		{"", "amd64", "arch=amd64,cpu=qemu64,cpus=1,memory=1024,nic=e1000,machine=pc,accel=tcg"},
		{"", "i686", "arch=i386,cpu=coreduo,cpus=1,memory=1024,nic=e1000,machine=pc,accel=tcg"},
		{"cpu=coreduo,memory=512,nic=e1000,arch=i386", "amd64", "arch=i386,cpu=coreduo,cpus=1,memory=512,nic=e1000,machine=pc,accel=tcg"},
		{" arch = x86_64 , memory=2048M, nic=virtio-net-pci", "", "arch=amd64,cpu=qemu64,cpus=1,memory=2048,nic=virtio-net-pci,machine=pc,accel=tcg"},
		{"mac=52:54:00:AA:bb:cc,machine=q35,cpus=2", "amd64", "arch=amd64,cpu=qemu64,cpus=2,memory=1024,nic=e1000,mac=52:54:00:aa:bb:cc,machine=q35,accel=tcg"},
	} {
		spec, err := ParseSpec(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if spec.Accel == "" {
			spec.Accel = "tcg"
		}
		got := spec.withDefaults(tt.arch)
		if got.String() != tt.want {
			t.Errorf("%q on %s:\n got %s\nwant %s", tt.in, tt.arch, got, tt.want)
		}
		if again, err := ParseSpec(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%q does not read back: %v, %v", got, again, err)
		}
	}
}

func TestParseSpecErrors(t *testing.T) {
	for in, want := range map[string]string{
		"ram=1":                 `unknown key "ram" (known: accel, arch, cpu, cpus, mac, machine, memory, nic)`,
		"memory":                "memory has no value",
		"memory=":               "memory has no value",
		"memory=lots":           `memory "lots" is not a number from 64 to 1048576`,
		"memory=3":              "not a number from 64",
		"cpus=0":                "not a number from 1",
		"nic=ne1000":            `nic "ne1000" is not one of e1000`,
		"arch=arm64":            `arch "arm64" is not one of amd64, i386`,
		"mac=01:02":             "mac",
		"mac=01:00:5e:0:0:1":    "mac",
		"mac=01:00:5e:00:00:01": "not the address of one Ethernet card",
		"cpu=max -hda /x":       "is not the name of a CPU model",
		"cpu=a,cpu=b":           "cpu is given twice",
		"accel=hvf":             "not one of kvm, tcg",
		",":                     `unknown key ""`,
	} {
		_, err := ParseSpec(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error with %q", in, err, want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("cpu=coreduo,memory=1024,nic=e1000,arch=i386")
	f.Add("mac=52:54:00:00:00:01,accel=kvm")
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := ParseSpec(in)
		if err != nil {
			return
		}
		// Every value becomes part of an argument in which QEMU gives the comma a meaning.
		for _, arg := range qemuArgs(spec.withDefaults("amd64"), false, 3, 4, 5, nil) {
			if strings.ContainsAny(arg, " \n\x00") {
				t.Fatalf("%q gives the argument %q", in, arg)
			}
		}
		if _, err := ParseSpec(spec.String()); err != nil {
			t.Fatalf("%q does not read back: %v", spec, err)
		}
	})
}
