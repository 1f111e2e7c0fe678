// SPDX-License-Identifier: Apache-2.0
import { createRouter } from '@tanstack/react-router';
import { CrashPage } from '@/ui/Fallback';
import { analyticsRoute } from './analytics';
import { consumersRoute } from './consumers';
import { forgotPasswordRoute } from './forgotPassword';
import { invitationRoute } from './invitation';
import { invoicesRoute } from './invoices';
import { keysRoute } from './keys';
import { logsRoute } from './logs';
import { memberRoute } from './member';
import { metersRoute } from './meters';
import { onboardingRoute } from './onboarding';
import { plansRoute } from './plans';
import { publicRoute } from './public';
import { receivablesRoute } from './receivables';
import { registerRoute } from './register';
import { resetPasswordRoute } from './resetPassword';
import { rootRoute } from './root';
import { signInRoute } from './signIn';
import { startRoute } from './start';
import { subscriptionsRoute } from './subscriptions';
import { usageRoute } from './usage';
import { verifyEmailRoute } from './verifyEmail';

const routeTree = rootRoute.addChildren([
  publicRoute.addChildren([
    signInRoute,
    registerRoute,
    verifyEmailRoute,
    forgotPasswordRoute,
    resetPasswordRoute,
    invitationRoute,
  ]),
  onboardingRoute,
  memberRoute.addChildren([
    startRoute,
    usageRoute,
    logsRoute,
    keysRoute,
    invoicesRoute,
    subscriptionsRoute,
    consumersRoute,
    plansRoute,
    metersRoute,
    receivablesRoute,
    analyticsRoute,
  ]),
]);

/** All pages. nimbus/portal/pages.py lists the same addresses, so that a reload finds them. */
export function createPortalRouter() {
  return createRouter({
    routeTree,
    scrollRestoration: true,
    // A page that crashes leaves the navigation around it alone.
    defaultErrorComponent: CrashPage,
    // Plain query strings: a token of digits stays a string.
    parseSearch: (search) => Object.fromEntries(new URLSearchParams(search)),
    stringifySearch: (search) => {
      const text = new URLSearchParams(search as Record<string, string>).toString();
      return text && `?${text}`;
    },
  });
}

declare module '@tanstack/react-router' {
  interface Register {
    router: ReturnType<typeof createPortalRouter>;
  }
}
