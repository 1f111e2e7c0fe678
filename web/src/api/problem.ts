// SPDX-License-Identifier: Apache-2.0

export type FieldProblem = { field: string; code: string; message: string };

/** A refusal of the API (RFC 9457), or `network` when no answer came. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly requestId: string | null;
  readonly fields: readonly FieldProblem[];

  constructor(status: number, body: Record<string, unknown>) {
    super(String(body.detail || body.error || body.code));
    this.name = 'Problem';
    this.status = status;
    this.code = String(body.code);
    this.requestId = body.request_id ? String(body.request_id) : null;
    this.fields = Array.isArray(body.errors) ? body.errors : [];
  }
}

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** The answer's data; throws a Problem for a refusal and for a connection that failed. */
export async function unwrap<T>(call: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await call;
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem(0, { code: 'network', detail: String(cause) });
  }
  const { data, error, response } = answer;
  if (response.ok) return data as T;
  const body = typeof error === 'object' && error !== null ? error : {};
  throw new Problem(response.status, { code: 'unknown', ...body });
}
