package part

import (
	_ "embed"
	"encoding/json"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/peregrine-dev/peregrine/shim/oci"
)

// usual is what containerd's client makes for a container without wishes.
//
//go:embed usual.json
var usual []byte

// rehearse goes through the deciding and the talking once, so that what Go does for the
// first time, and the pages it needs, are done with when it counts.
func rehearse() error {
	spec, err := oci.Decode(usual)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	c, err := oci.Compile("rehearsal", spec)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	if _, err := json.Marshal(c.Plan); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	now := timestamppb.Now()
	for _, m := range []proto.Message{
		&taskapi.CreateTaskRequest{ID: "c", Rootfs: []*types.Mount{{Type: "overlay", Options: []string{"o"}}}},
		&taskapi.CreateTaskResponse{Pid: 1},
		&taskapi.StartRequest{ID: "c"},
		&taskapi.StartResponse{Pid: 1},
		&taskapi.StateResponse{ID: "c", ExitedAt: now},
		&taskapi.WaitResponse{ExitedAt: now},
		&taskapi.KillRequest{ID: "c"},
		&taskapi.DeleteRequest{ID: "c"},
		&taskapi.DeleteResponse{ExitedAt: now},
		&taskapi.ConnectResponse{ShimPid: 1},
		&taskapi.ShutdownRequest{ID: "c"},
	} {
		if err := throughProto(m); err != nil {
			return fmt.Errorf("rehearse: %w", err)
		}
	}
	for _, event := range []proto.Message{
		&eventsapi.TaskCreate{ContainerID: "c", IO: &eventsapi.TaskIO{}},
		&eventsapi.TaskStart{ContainerID: "c"},
		&eventsapi.TaskExit{ContainerID: "c", ExitedAt: now},
		&eventsapi.TaskDelete{ContainerID: "c", ExitedAt: now},
	} {
		any, err := typeurl.MarshalAnyToProto(event)
		if err != nil {
			return fmt.Errorf("rehearse: %w", err)
		}
		if err := throughProto(&forwardapi.ForwardRequest{Envelope: &types.Envelope{Timestamp: now, Event: any}}); err != nil {
			return fmt.Errorf("rehearse: %w", err)
		}
	}
	return nil
}

// throughProto writes a message and reads it again.
func throughProto(m proto.Message) error {
	text, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return proto.Unmarshal(text, m.ProtoReflect().New().Interface())
}
