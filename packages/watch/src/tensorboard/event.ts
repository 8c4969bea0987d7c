import protobuf from "protobufjs";

/** What of TensorFlow's `event.proto`, `summary.proto` and `tensor.proto` is written here; names and numbers are theirs. */
const PROTO = `
syntax = "proto3";
message Event {
  double wall_time = 1;
  int64 step = 2;
  oneof what {
    string file_version = 3;
    Summary summary = 5;
    SessionLog session_log = 7;
  }
}
message SessionLog {
  enum SessionStatus { STATUS_UNSPECIFIED = 0; START = 1; STOP = 2; CHECKPOINT = 3; }
  SessionStatus status = 1;
}
message Summary { repeated Value value = 1; }
message Value {
  string tag = 1;
  // In a oneof, so that a 0 is written too.
  oneof value {
    float simple_value = 2;
    TensorProto tensor = 8;
  }
  SummaryMetadata metadata = 9;
}
message SummaryMetadata { PluginData plugin_data = 1; }
message PluginData { string plugin_name = 1; }
message TensorProto {
  int32 dtype = 1;
  TensorShapeProto tensor_shape = 2;
  repeated bytes string_val = 8;
}
message TensorShapeProto { repeated Dim dim = 2; }
message Dim { int64 size = 1; }
`;

const eventType = protobuf.parse(PROTO).root.lookupType("Event");
const DT_STRING = 7;
const START = 1;

export interface ScalarValue {
  readonly tag: string;
  readonly value: number;
}

export interface TextValue {
  readonly tag: string;
  /** Markdown. */
  readonly text: string;
}

/** The bytes of an Event. `wallTime` is in seconds since 1970. */
function encode(wallTime: number, step: number, what: Record<string, unknown>): Uint8Array {
  return eventType.encode(eventType.fromObject({ wallTime, step, ...what })).finish();
}

/** The first event of every file. */
export function versionEvent(wallTime: number): Uint8Array {
  return encode(wallTime, 0, { fileVersion: "brain.Event:2" });
}

/** Says that `step` is the first that follows: TensorBoard drops what an earlier file says of it and later ones. */
export function restartEvent(wallTime: number, step: number): Uint8Array {
  return encode(wallTime, step, { sessionLog: { status: START } });
}

/** Numbers and texts of a step. */
export function summaryEvent(
  wallTime: number,
  step: number,
  scalars: readonly ScalarValue[],
  texts: readonly TextValue[] = [],
): Uint8Array {
  const value = [
    ...scalars.map(({ tag, value }) => ({ tag, simpleValue: value })),
    ...texts.map(({ tag, text }) => ({
      tag,
      tensor: { dtype: DT_STRING, tensorShape: { dim: [{ size: 1 }] }, stringVal: [Buffer.from(text)] },
      metadata: { pluginData: { pluginName: "text" } },
    })),
  ];
  return encode(wallTime, step, { summary: { value } });
}
