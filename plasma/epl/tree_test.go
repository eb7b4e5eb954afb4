package epl

import (
	"fmt"
	"reflect"
	"strings"
)

// dump writes a tree without its places, so that trees of the same meaning are equal.
func dump(v any) string {
	var b strings.Builder
	dumpValue(&b, reflect.ValueOf(v), 0)
	return b.String()
}

func dumpValue(b *strings.Builder, v reflect.Value, depth int) {
	in := strings.Repeat("  ", depth)
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil\n")
			return
		}
		dumpValue(b, v.Elem(), depth)
	case reflect.Struct:
		b.WriteString(v.Type().Name() + "\n")
		for i := range v.NumField() {
			f := v.Field(i)
			if f.Type() == reflect.TypeFor[Span]() || f.IsZero() {
				continue
			}
			fmt.Fprintf(b, "%s  %s: ", in, v.Type().Field(i).Name)
			dumpValue(b, f, depth+1)
		}
	case reflect.Slice:
		b.WriteString("\n")
		for i := range v.Len() {
			b.WriteString(in + "  - ")
			dumpValue(b, v.Index(i), depth+1)
		}
	default:
		fmt.Fprintf(b, "%v\n", v.Interface())
	}
}
