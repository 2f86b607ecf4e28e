// SPDX-License-Identifier: Apache-2.0
// What the server answers: proto/studio.proto and proto/results.proto, as JSON.

export interface Interval { mean?: number; low?: number; high?: number }
export interface Group {
  id: string; title: string; sweep?: boolean; runs?: number; cells?: number; changed?: number; command?: string;
}
export interface State {
  version: string; read_only: boolean; read_only_reason?: string; demo: boolean;
  rooms: { name: string; title: string }[];
  groups: Group[]; runs: number; damaged: number; runs_folder: string; indexed_ms: number;
}
export interface RunEntry {
  id: string; name: string; group: string; status: string; reason?: string; title?: string; setting?: string;
  data?: string; protection?: string; head?: number; tail?: number; accuracy?: number; changed?: number; started?: string;
  method?: string; method_settings?: string;
}
export interface RunList { total: number; runs: RunEntry[] }
export interface Matching { gallery?: number; rank1?: Interval; cmc5?: number; cmc20?: number; guesswork?: number }
export interface Hits { all?: number; non_constant?: number }
export interface Candidate { name?: string; ssim?: number; psnr?: number; x?: number; matching?: Matching; hits?: Hits }
export interface AttackResult {
  attack: string; title: string; level?: string; error?: string; pointless?: string; best_of?: number;
  scored_images?: number; ssim?: Interval; psnr?: Interval; own_pick?: Candidate; seconds?: number; settings?: string;
  device?: string; metric?: string; parts: Candidate[];
  reference?: { recognised?: Interval; reidentified?: Interval; chance?: number };
  matching?: Matching; hits?: Hits;
}
export interface AttackView {
  result: AttackResult; folder: string; original?: string; reconstruction?: string; command?: string;
}
export interface Summary {
  protection?: string; nets?: number; selected?: number; sigma?: number; lambda?: number; architecture?: string;
  width?: number; dtype?: string; split?: { head?: number; tail?: number }; data?: string; train_images?: number;
  test_images?: number; accuracy?: number; seconds?: Record<string, number>; flops?: { edge?: number; cloud?: number };
  bytes?: { up?: number; down?: number };
  disguise?: { method?: string; settings?: string; owner_microseconds?: number; image_bytes?: number; disguised_bytes?: number; key_bytes?: number };
}
export interface Percentiles { p50?: number; p95?: number }
export interface Serving { latency_ms?: Record<string, Percentiles>; bytes_sent?: number; bytes_received?: number }
export interface RunView {
  entry: RunEntry; summary?: Summary; serving?: Serving; command?: string; device?: string; version?: string;
  revision?: string; attacks: AttackView[]; certificate?: object; certificate_text?: string;
  curves: { stage: string; name: string }[]; settings: { path: string; value: string }[]; damage: string[];
}
export interface CurveLine { stage: string; name: string; net: number; x: number[]; y: number[]; points: number; label?: string }
export interface Curves { lines: CurveLine[]; finished?: boolean }

export interface Cell {
  attack: string; title: string; level?: string; metric: string; run?: string; folder: string; seeds: number;
  ssim?: Interval; psnr?: Interval; best_ssim?: Interval; worst_case?: number; own_pick?: number; of_oracle?: number;
  recognised?: number; reidentified?: number; strength?: string; trusted?: boolean; why?: string; error?: string;
  pointless?: string;
}
export interface Row {
  title: string; protection?: string; runs: string[]; accuracy?: Interval; change?: Interval; edge_ms?: number;
  edge_flops?: number; bytes_up?: number; bytes_down?: number; cells: Cell[]; status?: string; reason?: string;
  head?: number; tail?: number; bits?: number; disguised?: boolean;
}
export interface Comparison { title: string; data?: string; rows: Row[] }
export interface PublishedRow {
  group?: string; name: string; change?: number; ssim?: number; psnr?: number; our_change?: number; our_ssim?: number;
  ours?: string;
}
export interface Matrix {
  group: Group; comparisons: Comparison[]; published: { source: string; rows: PublishedRow[] }[];
  skipped: { what: string; reason: string }[];
}

export interface Progress {
  label?: string; done?: number; total?: number; unit?: string; rate?: number; left?: number; note?: string;
}
export interface Job {
  id: string; title: string; state: string; reason?: string; progress?: Progress; command?: string; created?: number;
  started?: number; ended?: number; run?: string; group?: string; log?: string[];
}
export interface JobList { jobs: Job[]; read_only: boolean }
export interface ServerEvent { job?: Job; indexed?: number }

export interface Place {
  head: number; tail: number; bytes_up: number; bytes_down: number; edge_flops: number; cloud_flops: number;
  run?: string; ssim?: number; accuracy?: number;
}
export interface Stop { path: string; label: string; value: number; run: string }
export interface SplitRun {
  entry: RunEntry; cells: { name: string; output: string; flops?: number; parameters?: number }[]; places: Place[];
  stops: Stop[]; nets?: number; selected?: number; sigma?: number; lambda?: number; can_vary_sigma?: boolean;
  images?: number; class_names: string[]; attacks: AttackView[]; certificate?: object; certificate_text?: string;
  unavailable?: string;
}
export interface Trace {
  image: string; clean?: string; sent?: string; feature_shape?: string; channels?: number; shown_channels?: number;
  bytes_up?: number; bytes_down?: number; dtype?: string;
  bodies: { picture?: string; shape?: string; milliseconds?: number }[];
  answers: { name: string; probability: number }[]; label?: string; edge_ms?: number; cloud_ms?: number;
  tail_ms?: number; noise_share?: number;
}

export interface TrainingChoices {
  data: { name: string; present?: boolean; command?: string }[];
  protections: { kind: string; title: string; meaning: string; several_nets?: boolean; selects?: boolean; noise?: boolean }[];
  architectures: string[]; sets: CloudSet[]; classifiers: string[];
}
export interface CloudSet {
  id: string; title: string; method: string; settings: string; key_id: string; set_id: string; shape: string; rows: number;
  test_rows?: number; bytes: number; of_class: number[]; picture?: string; marks: string[]; plain?: boolean;
}

export interface Control {
  path: string; kind: string; choices: string[]; low?: number; high?: number; preset?: string; doc?: string;
}
export interface Method { name: string; title: string; tab: string; keyed?: boolean; meaning: string; controls: Control[] }
export interface DisguiseChoices {
  methods: Method[]; attacks: { name: string; title: string; level: string }[];
  data: { name: string; title: string; present?: boolean; command?: string }[]; common: Control[];
}
export interface DisguisePreview {
  original: string; disguised: string; columns: number; first: number; count: number; total: number; labels: string[];
  image_shape: string; disguised_shape: string; tokens?: boolean; bytes_before: number; bytes_after: number;
  microseconds: number; key_bytes?: number; attacks: { attack: string; reason?: string; quick?: boolean }[];
}
export interface AttackPoint {
  name?: string; x?: number; rebuilt: string; shown_ssim: number; shown_psnr: number; ssim?: Interval; psnr?: Interval;
  rank1?: Interval; guesswork?: number; hits?: number; hits_non_constant?: number; verdict?: string;
}
export interface DisguiseAttack {
  attack: string; title: string; level: string; points: AttackPoint[]; best?: number; scored_images: number;
  gallery: number; public_images: number; disguised_rows: number; seconds: number;
}
export interface OwnerSet {
  id: string; title: string; job?: string; uploaded?: boolean; created?: number;
  report?: {
    data: string; method: string; settings?: string; key_bytes?: number; cores?: number;
    files: { name: string; rows: number; bytes_before: number; bytes_after: number; seconds: number }[];
  };
  leaves: { name: string; shape?: string; type?: string; bytes?: number; what?: string }[];
}
export interface OwnerSets { sets: OwnerSet[] }
export interface OwnPictures { count?: number; most: number; sheet?: string }

export interface LiveView {
  running?: boolean; own?: boolean; parts: { name: string; p50?: number; p95?: number }[]; answers?: number; age?: number; problem?: string;
}
