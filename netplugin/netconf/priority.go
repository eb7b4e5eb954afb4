package netconf

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// PriorityLabel is the annotation of a pod, or the label of a container, that says which class
// it is of where no rule says otherwise.
const PriorityLabel = "peregrine.dev/priority"

var (
	policyKeys = []string{"default", "rules"}
	ruleKeys   = []string{"proto", "port", "cidr", "class"}
)

// readPriority reads the key "priority". null is as if it weren't there.
func readPriority(text json.RawMessage) (p priority.Policy, err error) {
	policy, err := membersOf("priority", text, policyKeys)
	if err != nil {
		return p, err
	}
	if err := read("priority.default", policy["default"], &p.Default); err != nil {
		return p, err
	}
	var rules []json.RawMessage
	if err := read("priority.rules", policy["rules"], &rules); err != nil {
		return p, err
	}
	for i, text := range rules {
		what := fmt.Sprintf("rule %d of priority", i+1)
		members, err := membersOf(what, text, ruleKeys)
		if err != nil {
			return p, err
		}
		if class := members["class"]; class == nil || string(class) == "null" {
			return p, types.NewError(types.ErrInvalidNetworkConfig, what+" has no class", "use high, normal or low")
		}
		var r priority.Rule
		if err := read(what, text, &r); err != nil {
			return p, err
		}
		p.Rules = append(p.Rules, r)
	}
	if err := p.Validate(); err != nil {
		return p, types.NewError(types.ErrInvalidNetworkConfig, "priority of the network configuration", err.Error())
	}
	return p, nil
}

// membersOf reads an object that may have the keys of known.
func membersOf(what string, text json.RawMessage, known []string) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := read(what, text, &members); err != nil {
		return nil, err
	}
	for key := range members {
		if !slices.Contains(known, key) {
			return nil, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("%s has the unknown key %q", what, key), "known are "+strings.Join(known, ", "))
		}
	}
	return members, nil
}

func read(what string, text json.RawMessage, into any) error {
	if text == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "read "+what+" of the network configuration", err.Error())
	}
	return nil
}

// PriorityWish is the class that a container asks for: by an annotation of its pod
// (runtimeConfig), else by a label (args.cni.labels, of CNI's conventions), else by args, which
// is what CNI_ARGS has for it. wished is whether it asks for one.
func (c *Conf) PriorityWish(args string) (class priority.Class, wished bool, err error) {
	from, name := "runtimeConfig, annotation "+PriorityLabel, ""
	name, wished = c.RuntimeConfig.Annotations[PriorityLabel]
	if !wished {
		from = "args.cni.labels, " + PriorityLabel
		if name, wished, err = c.label(PriorityLabel); err != nil {
			return priority.Normal, false, err
		}
	}
	if !wished && args != "" {
		from, name, wished = "CNI_ARGS", args, true
	}
	if !wished {
		return priority.Normal, false, nil
	}
	if class, err = priority.Parse(name); err != nil {
		return priority.Normal, false, types.NewError(types.ErrInvalidNetworkConfig, "the container's priority, from "+from, err.Error())
	}
	return class, true, nil
}

// label looks one up in args.cni.labels.
func (c *Conf) label(key string) (value string, there bool, err error) {
	if c.Args == nil {
		return "", false, nil
	}
	var args struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels"`
		} `json:"cni"`
	}
	if err := json.Unmarshal(c.Args, &args); err != nil {
		return "", false, types.NewError(types.ErrInvalidNetworkConfig, "read args.cni.labels of the network configuration", err.Error())
	}
	for _, l := range args.CNI.Labels {
		if l.Key == key {
			return l.Value, true, nil
		}
	}
	return "", false, nil
}
