// SPDX-License-Identifier: Apache-2.0
import { Card, Stack } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { refresh } from '@/api/session';
import { OrganizationForm } from '@/features/identity/OrganizationForm';
import { TermsForm } from '@/features/identity/TermsForm';
import { organizationTexts } from '@/features/identity/texts';
import { useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { Steps } from '@/ui/Steps';
import { FirstKey } from './FirstKey';
import { OnboardingLayout } from './OnboardingLayout';
import { PlanStep } from './PlanStep';
import { onboardingTexts } from './texts';

const STEPS = ['organization', 'plan', 'terms'] as const;

/** From a verified address to an active organization; picks up where it was left. */
export function Onboarding({ onDone }: { onDone: () => void }) {
  const own = useTexts(onboardingTexts);
  const client = useQueryClient();
  const [planSkipped, setPlanSkipped] = useState(false);
  const [firstKey, setFirstKey] = useState<string | null>(null);
  const progress = useQuery({
    queryKey: ['onboarding'],
    queryFn: () => unwrap(api.GET('/api/public/onboarding')),
  });
  const open = STEPS.filter(
    (name) =>
      progress.data?.steps.some((item) => item.step === name && !item.done) &&
      !(name === 'plan' && planSkipped),
  );
  const step = open[0];
  const finished = progress.isSuccess && !step && !firstKey;

  // What a step changed is in the next token and in every figure.
  const advance = async () => {
    await refresh();
    await client.invalidateQueries();
  };
  useEffect(() => {
    if (finished) onDone();
  }, [finished, onDone]);

  if (firstKey) {
    return (
      <OnboardingLayout>
        <FirstKey secret={firstKey} onDone={onDone} />
      </OnboardingLayout>
    );
  }
  return (
    <OnboardingLayout>
      <Stack gap="xl">
        <Steps
          label={own.title}
          steps={STEPS.map((name) => own[name])}
          current={step ? STEPS.indexOf(step) : STEPS.length}
        />
        <ProblemAlert error={progress.error} retry={() => progress.refetch()} />
        {progress.isPending && <RowsLoading rows={6} />}
        {step === 'organization' && <OrganizationStep onDone={advance} />}
        {step === 'plan' && (
          <PlanStep onDone={advance} onKey={setFirstKey} onLater={() => setPlanSkipped(true)} />
        )}
        {step === 'terms' && <TermsStep onDone={advance} onKey={setFirstKey} />}
      </Stack>
    </OnboardingLayout>
  );
}

function OrganizationStep({ onDone }: { onDone: () => Promise<void> }) {
  const own = useTexts(organizationTexts);
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <Card padding="xl">
        <OrganizationForm onDone={onDone} />
      </Card>
    </Stack>
  );
}

type TermsStepProps = { onDone: () => Promise<void>; onKey: (secret: string) => void };

function TermsStep({ onDone, onKey }: TermsStepProps) {
  const own = useTexts(organizationTexts);
  return (
    <Stack gap="lg">
      <PageHead title={own.termsTitle} hint={own.termsHint} />
      <Card padding="xl">
        <TermsForm onDone={onDone} onKey={onKey} />
      </Card>
    </Stack>
  );
}
