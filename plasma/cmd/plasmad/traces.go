package main

import (
	"context"
	"time"

	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// traces sends spans to the collector of the configuration, if it has one, until ended is called.
func traces(ctx context.Context, s settings) (ended func(), err error) {
	if s.Traces.Endpoint == "" {
		return func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(s.Traces.Endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	p := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(resource.NewSchemaless(
		attribute.String("service.name", "plasmad"), attribute.String("host.name", s.Node))))
	otel.SetTracerProvider(p)
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			log.G(ctx).WithError(err).Debug("not all spans were sent")
		}
	}, nil
}
