// Verify a Tidegate log with the Go team's own code: note and tlog of golang.org/x/mod/sumdb.
//
// Usage: verify LOG_FOLDER VERIFIER_KEY [PROOF_FILE ENTRY_FILE]
//
// The folder holds "checkpoint" and "tile/". Every entry is hashed and compared with the leaf that the signed root
// proves; an optional .tlog-proof file is checked against an entry's bytes. Nothing of Tidegate's own code is used.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8
const tileWidth = 1 << tileHeight

// tilePath gives the C2SP tlog-tiles path; x/mod's own Tile.Path is the older layout of the checksum database.
func tilePath(level string, number int64, width int) string {
	name := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		name = fmt.Sprintf("x%03d/%s", number%1000, name)
	}
	path := "tile/" + level + "/" + name
	if width != tileWidth {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

type folderReader struct{ folder string }

func (r folderReader) Height() int                     { return tileHeight }
func (r folderReader) SaveTiles([]tlog.Tile, [][]byte) {}
func (r folderReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var result [][]byte
	for _, tile := range tiles {
		path := tilePath(strconv.Itoa(tile.L), tile.N, tile.W)
		data, err := os.ReadFile(filepath.Join(r.folder, path))
		if err != nil {
			return nil, err
		}
		result = append(result, data)
	}
	return result, nil
}

// openCheckpoint verifies the signature and gives the tree that it signs.
func openCheckpoint(data []byte, key string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 3 || lines[0] != verifier.Name() {
		return tree, errors.New("checkpoint of another log")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tree, errors.New("malformed root")
	}
	copy(tree.Hash[:], root)
	return tree, nil
}

func readBundle(folder string, number int64, width int) ([][]byte, error) {
	data, err := os.ReadFile(filepath.Join(folder, tilePath("entries", number, width)))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, errors.New("bundle cut short")
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries = append(entries, data[2:end])
		data = data[end:]
	}
	if len(entries) != width {
		return nil, errors.New("bundle of another width")
	}
	return entries, nil
}

func verifyEntries(folder string, tree tlog.Tree) error {
	hashes := tlog.TileHashReader(tree, folderReader{folder})
	for first := int64(0); first < tree.N; first += tileWidth {
		width := tileWidth
		if tree.N-first < tileWidth {
			width = int(tree.N - first)
		}
		entries, err := readBundle(folder, first/tileWidth, width)
		if err != nil {
			return err
		}
		var indexes []int64
		for offset := range entries {
			indexes = append(indexes, tlog.StoredHashIndex(0, first+int64(offset)))
		}
		proven, err := hashes.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for offset, entry := range entries {
			if proven[offset] != tlog.RecordHash(entry) {
				return fmt.Errorf("entry %d is not the one under the root", first+int64(offset))
			}
		}
	}
	return nil
}

func verifyProof(file, entryFile, key string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(entryFile)
	if err != nil {
		return err
	}
	head, checkpoint, found := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	tree, err := openCheckpoint(checkpoint, key)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

func run(arguments []string) error {
	if len(arguments) != 2 && len(arguments) != 4 {
		return errors.New("usage: verify LOG_FOLDER VERIFIER_KEY [PROOF_FILE ENTRY_FILE]")
	}
	folder, key := arguments[0], arguments[1]
	data, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(data, key)
	if err != nil {
		return err
	}
	if err := verifyEntries(folder, tree); err != nil {
		return err
	}
	fmt.Println("entries verified:", tree.N)
	if len(arguments) == 4 {
		if err := verifyProof(arguments[2], arguments[3], key); err != nil {
			return err
		}
		fmt.Println("proof verified")
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verification failed:", err)
		os.Exit(8)
	}
}
