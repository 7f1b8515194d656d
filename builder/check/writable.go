package check

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"netroot/builder/tree"
)

// folderList is where a root says which of its folders the initramfs copies into memory.
const folderList = "usr/lib/netroot/folders"

// largeFolder is what a folder that is copied at each boot may hold without a word: seconds on a slow network, and a part
// of a machine with half a gigabyte that it can spare.
const largeFolder = 64 << 20

// bindFolders are the folders that are copied into memory; none in a root that is not writable by folders.
func bindFolders(root fs.FS) []string {
	data, err := tree.ReadFile(root, folderList)
	if err != nil {
		return nil
	}
	return lines(data)
}

// copiedFolders finds folders that would take long to copy and much memory, and names what in them does. What is more than the limit
// does not boot.
func copiedFolders(s subject) (string, string, Severity) {
	root := s.root
	var large []string
	var total int64
	for _, dir := range bindFolders(root) {
		at, err := tree.Resolve(root, dir)
		if err != nil || !isDir(root, at) {
			return dir + " is to be writable, and is not there", "the initramfs cannot make it: make it in the image, or take it out of `root: folders:`", Warning
		}
		sum, most, of := weigh(root, at)
		total += sum
		if sum > largeFolder {
			large = append(large, fmt.Sprintf("%s of %.0f MB (/%s alone has %.0f)", dir, float64(sum)/1e6, most, float64(of)/1e6))
		}
	}
	if limit := bytesOf(s.Size); limit > 0 && total > limit {
		return fmt.Sprintf("the writable folders hold %.0f MB, and `root: size:` allows %s: %s", float64(total)/1e6, s.Size, few(bindFolders(root))), "allow more, or list smaller folders", Error
	}
	if large == nil {
		return "", "", ""
	}
	return "every boot copies into memory " + strings.Join(large, ", "),
		"empty it in `hooks`, or list smaller folders in `root: folders:`", Warning
}

// bytesOf is a size as tmpfs(5) has it (512m); 0 for a share of a memory that is not known here.
func bytesOf(size string) int64 {
	n, unit, shift := size, "kmg", 0
	if size != "" {
		if i := strings.IndexByte(unit, size[len(size)-1]|0x20); i >= 0 {
			n, shift = size[:len(size)-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseInt(n, 10, 48)
	if err != nil {
		return 0
	}
	return v << shift
}

// weigh adds up the files below a folder, and finds the folder right below it, or below that one, that has most of it.
func weigh(root fs.FS, dir string) (sum int64, most string, of int64) {
	parts := map[string]int64{}
	_ = fs.WalkDir(root, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read is not copied either
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		sum += info.Size()
		rest := strings.Split(strings.TrimPrefix(name, dir+"/"), "/")
		parts[path.Join(dir, path.Join(rest[:min(2, len(rest))]...))] += info.Size()
		return nil
	})
	for name, n := range parts {
		if n > of || n == of && name < most {
			most, of = name, n
		}
	}
	return sum, most, of
}
