// Writes crates/api/schema/omitted.txt: for each type of the API the fields that Go doesn't write when they are empty
// ("", 0, false, an empty list or map), because they are no pointers and their tag says omitempty. Of fields that are
// pointers, an empty value is said and kept; no published schema tells the two apart.
//
// With the argument zeros it writes crates/api/schema/zeros.txt instead: what Go writes of an empty object of each kind. A
// creation is compared with that, so that nobody owns what every object has.
//
// In a module that requires k8s.io/client-go, k8s.io/apiextensions-apiserver and k8s.io/kube-aggregator of the wanted
// version: go run . [zeros] < names > omitted.txt, where names are the types of the schema, one a line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes/scheme"
	aggregation "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

type collector struct {
	seen   map[reflect.Type]bool
	fields map[string][]string
}

func main() {
	wanted := map[string]bool{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		wanted[lines.Text()] = true
	}
	for _, add := range []error{extensions.AddToScheme(scheme.Scheme), aggregation.AddToScheme(scheme.Scheme)} {
		if add != nil {
			panic(add)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "zeros" {
		zeros(wanted)
		return
	}
	all := collector{seen: map[reflect.Type]bool{}, fields: map[string][]string{}}
	for _, kind := range scheme.Scheme.AllKnownTypes() {
		all.visit(kind, "")
	}
	var names []string
	for name := range all.fields {
		if wanted[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		sort.Strings(all.fields[name])
		fmt.Println(name, strings.Join(all.fields[name], " "))
	}
}

// Empty objects that have a spec, or whatever else is theirs.
func zeros(wanted map[string]bool) {
	var lines []string
	for _, kind := range scheme.Scheme.AllKnownTypes() {
		_, isKind := kind.FieldByName("ObjectMeta")
		if !wanted[title(kind)] || !isKind {
			continue
		}
		text, err := json.Marshal(reflect.New(kind).Interface())
		if err != nil {
			panic(err)
		}
		if string(text) != `{"metadata":{}}` {
			lines = append(lines, title(kind)+" "+string(text))
		}
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

// The name of a type in the published schemas.
func title(of reflect.Type) string {
	path := strings.Replace(of.PkgPath(), "k8s.io/", "io.k8s.", 1)
	return strings.ReplaceAll(path, "/", ".") + "." + of.Name()
}

// Looks at a type; one that is embedded counts as part of its holder.
func (c *collector) visit(of reflect.Type, holder string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || holder == "" && c.seen[of] {
		return
	}
	name := holder
	if holder == "" {
		c.seen[of] = true
		name = title(of)
	}
	for i := range of.NumField() {
		field := of.Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case key == "-" || !field.IsExported():
		case key == "":
			if field.Anonymous {
				c.visit(field.Type, name)
			}
		default:
			switch field.Type.Kind() {
			case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Slice, reflect.Map:
				if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
					c.fields[name] = append(c.fields[name], key)
				}
			}
			c.visit(field.Type, "")
		}
	}
}
