package driver

import (
	"os"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }
