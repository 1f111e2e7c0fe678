// SPDX-License-Identifier: Apache-2.0
import type { UseFormReturnType } from '@mantine/form';
import { type FormEvent, useState } from 'react';
import type { Refused } from './problems';

type FieldRefusal = { field: string; code: string; message: string };
type Refusal = Refused & { fields?: readonly FieldRefusal[] };
type FieldTexts = Readonly<Record<string, string>>;

/**
 * Sends a form: one request at a time, refused fields shown at the field, the first of them
 * focused, anything else returned as `failure`. `fieldTexts` are sentences by field and code.
 */
export function useSubmit<Values extends Record<string, unknown>>(
  form: UseFormReturnType<Values>,
  send: (values: Values) => Promise<void>,
  fieldTexts: FieldTexts = {},
) {
  const [pending, setPending] = useState(false);
  const [failure, setFailure] = useState<Refusal | null>(null);

  const submit = async (values: Values) => {
    setPending(true);
    setFailure(null);
    try {
      await send(values);
    } catch (error) {
      const refusal = error as Refusal;
      const said = (refusal.fields ?? []).map(({ field, code, message }) => ({
        field,
        message: fieldTexts[`${field}.${code}`] ?? message,
        input: form.getInputNode(field),
      }));
      const shown = said.filter((item) => item.input);
      const [other] = said.filter((item) => !item.input);
      form.setErrors(Object.fromEntries(shown.map((item) => [item.field, item.message])));
      shown[0]?.input?.focus();
      // What has no field of its own on this form is said above it.
      if (other) setFailure(Object.assign(refusal, { message: other.message }));
      else if (shown.length === 0) setFailure(refusal);
    } finally {
      setPending(false);
    }
  };

  const focusFirst = (errors: Record<string, unknown>) => {
    const [first] = Object.keys(errors);
    if (first) form.getInputNode(first)?.focus();
  };

  const onSubmit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (!pending) form.onSubmit(submit, focusFirst)(event);
  };

  return { onSubmit, pending, failure };
}
