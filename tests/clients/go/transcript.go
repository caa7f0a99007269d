package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

// limit is how long a run may take. A run that hangs is a failed run.
const limit = 100 * time.Second

// address joins the last two arguments, HOST and PORT.
func address() string {
	return strings.Join(os.Args[len(os.Args)-2:], ":")
}

// say prints one line of the transcript.
func say(label string, values ...interface{}) {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = shown(value)
	}
	fmt.Println(label, strings.Join(texts, " "))
}

// database returns the number of the database to use. Older servers have one database in a cluster, which the program then uses in
// place of each other one.
func database(number int) int {
	if os.Getenv("ONE_DATABASE") != "" {
		return 0
	}
	return number
}

// shown formats a value as text, with the keys of maps in one order.
func shown(value interface{}) string {
	switch value := value.(type) {
	case nil:
		return "nil"
	case error:
		return "error: " + value.Error()
	case []byte:
		return fmt.Sprintf("%q", value)
	case string:
		return fmt.Sprintf("%q", value)
	case []string:
		return fmt.Sprintf("%q", value)
	case []interface{}:
		texts := make([]string, len(value))
		for i, item := range value {
			texts[i] = shown(item)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case map[string]string:
		texts := make([]string, 0, len(value))
		for key, item := range value {
			texts = append(texts, fmt.Sprintf("%q: %q", key, item))
		}
		sort.Strings(texts)
		return "{" + strings.Join(texts, ", ") + "}"
	default:
		return fmt.Sprint(value)
	}
}

// must ends the run if err is not nil.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "unexpected error:", err)
		os.Exit(1)
	}
}

// endAfterLimit ends a run that hangs, with a stack trace of every goroutine.
func endAfterLimit() {
	time.AfterFunc(limit, func() { panic("the run takes too long") })
}
