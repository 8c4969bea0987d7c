import { runDeviceTests } from "../conformance.ts";
import { ReferenceDevice } from "./index.ts";

// The suite's own check: the oracle agrees with itself, keeps to its views, and ignores the number of threads.
runDeviceTests(() => new ReferenceDevice());
