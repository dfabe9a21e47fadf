"""Small heads: one program trains a head through all steps of a launch, weights and moments in registers throughout.

The tensors [rows of a weight matrix, hidden] all have the hidden width on the same axis, so that sums over rows leave
vectors that the next product takes as they are.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import slope, value
from pipeline.fit.gpu.products import LOG_BETA1, LOG_BETA2, adamw, one_minus_power
from pipeline.fit.gpu.small_products import expansions, outer_products, row_numbers, sums_of

__all__ = ["train_small"]


@triton.jit(do_not_specialize=["order_stride", "table_stride", "launch_steps"])
def train_small(
    weight_ptr, first_ptr, second_ptr, small_ptr, small_first_ptr, small_second_ptr, phi_ptr, table_ptr, target_ptr,
    order_ptr, replicate_ptr, diverged_ptr, total_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr, order_stride,
    table_stride, launch_steps, low, inverse, sharpness,
    FEATURES: tl.constexpr, SPLIT: tl.constexpr, FIRST_PAD: tl.constexpr, SECOND_PAD: tl.constexpr,
    OUT: tl.constexpr, OUT_PAD: tl.constexpr, CLASSES: tl.constexpr, BATCH: tl.constexpr, SMALL: tl.constexpr,
    KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr, ORDER: tl.constexpr, ROWS_PAD: tl.constexpr,
    REGRESSION: tl.constexpr, AT_WEIGHT: tl.constexpr, AT_BIAS0: tl.constexpr, AT_BIAS1: tl.constexpr,
):  # fmt: skip
    """Up to `launch_steps` steps of one head with two layers, from `turn` [heads] on.

    `phi` [rows, FEATURES] is the split's expansion, whose first SPLIT columns are the first branch's; `table` [rows,
    rows] the products of its rows. A basis of the second layer has WIDTH0 functions (ROWS_PAD rows here). Everything
    else is as for the kernels of large heads.
    """
    head = tl.program_id(0).to(tl.int64)
    turn = tl.load(turn_ptr + head)
    done, all_steps = tl.load(span_ptr), tl.load(span_ptr + 1)
    steps, last = tl.load(span_ptr + 2), tl.load(span_ptr + 3)
    end = tl.minimum(turn + launch_steps, steps)
    order_ptr += tl.load(replicate_ptr + head).to(tl.int64) * order_stride
    diverged = tl.load(diverged_ptr + head)
    base_rate, base_decay, clip = tl.load(rate_ptr + head), tl.load(decay_ptr + head), tl.load(clip_ptr + head)
    total = tl.load(total_ptr + head)
    o = tl.arange(0, OUT_PAD)
    f = tl.arange(0, FIRST_PAD)
    columns = (o < OUT)[None, :]
    inside_f = f < SPLIT
    mask_f = inside_f[:, None] & columns
    at_f = head * FEATURES * OUT + f[:, None] * OUT + o[None, :]
    w = tl.load(weight_ptr + at_f, mask=mask_f, other=0.0)
    m = tl.load(first_ptr + at_f, mask=mask_f, other=0.0)
    v = tl.load(second_ptr + at_f, mask=mask_f, other=0.0)
    SECOND: tl.constexpr = FEATURES > SPLIT
    if SECOND:
        e = tl.arange(0, SECOND_PAD)
        inside_e = e < FEATURES - SPLIT
        mask_e = inside_e[:, None] & columns
        at_e = head * FEATURES * OUT + (SPLIT + e)[:, None] * OUT + o[None, :]
        we = tl.load(weight_ptr + at_e, mask=mask_e, other=0.0)
        me = tl.load(first_ptr + at_e, mask=mask_e, other=0.0)
        ve = tl.load(second_ptr + at_e, mask=mask_e, other=0.0)
    # The second layer: for each class a tensor [basis function, hidden]; of the second branch one [class, hidden].
    k = tl.arange(0, ROWS_PAD)
    mask_k = (k < WIDTH0)[:, None] & columns
    small_at = head * SMALL
    u = ()
    um = ()
    uv = ()
    for c in tl.static_range(CLASSES):
        at = small_at + AT_WEIGHT + (o[None, :] * WIDTH0 + k[:, None]) * CLASSES + c
        u = u + (tl.load(small_ptr + at, mask=mask_k, other=0.0),)
        um = um + (tl.load(small_first_ptr + at, mask=mask_k, other=0.0),)
        uv = uv + (tl.load(small_second_ptr + at, mask=mask_k, other=0.0),)
    if KIND1 >= 0:
        mask_c = (k < CLASSES)[:, None] & columns
        at_c = small_at + AT_WEIGHT + (OUT * WIDTH0 + o[None, :]) * CLASSES + k[:, None]
        s = tl.load(small_ptr + at_c, mask=mask_c, other=0.0)
        sm = tl.load(small_first_ptr + at_c, mask=mask_c, other=0.0)
        sv = tl.load(small_second_ptr + at_c, mask=mask_c, other=0.0)
    if AT_BIAS0 >= 0:
        at_b = small_at + AT_BIAS0 + o
        b = tl.load(small_ptr + at_b, mask=o < OUT, other=0.0)
        bm = tl.load(small_first_ptr + at_b, mask=o < OUT, other=0.0)
        bv = tl.load(small_second_ptr + at_b, mask=o < OUT, other=0.0)
    if AT_BIAS1 >= 0:
        a = ()
        am = ()
        av = ()
        for c in tl.static_range(CLASSES):
            at = small_at + AT_BIAS1 + c
            a = a + (tl.load(small_ptr + at),)
            am = am + (tl.load(small_first_ptr + at),)
            av = av + (tl.load(small_second_ptr + at),)
    following = row_numbers(order_ptr, turn, steps, BATCH)
    while turn < end:
        rows = following
        following = row_numbers(order_ptr, turn + 1, steps, BATCH)
        count = tl.where(turn == steps - 1, last, BATCH)
        phi = expansions(phi_ptr, rows, f, inside_f, FEATURES, BATCH)
        parts = ()
        for r in tl.static_range(BATCH):
            parts = parts + (phi[r][:, None] * w,)
        x = sums_of(parts, BATCH)
        if SECOND:
            psi = expansions(phi_ptr + SPLIT, rows, e, inside_e, FEATURES, BATCH)
            parts = ()
            for r in tl.static_range(BATCH):
                parts = parts + (psi[r][:, None] * we,)
            more = sums_of(parts, BATCH)
            parts = ()
            for r in tl.static_range(BATCH):
                parts = parts + (x[r] + more[r],)
            x = parts
        if AT_BIAS0 >= 0:
            parts = ()
            for r in tl.static_range(BATCH):
                parts = parts + (x[r] + b,)
            x = parts
        phi2 = ()
        psi2 = ()
        for r in tl.static_range(BATCH):
            phi2 = phi2 + (value(x[r][None, :], k[:, None], low, inverse, sharpness, KIND0, ORDER),)
            if KIND1 >= 0:
                psi2 = psi2 + (value(x[r], 0, low, inverse, sharpness, KIND1, ORDER),)
        logits = ()
        for c in tl.static_range(CLASSES):
            parts = ()
            for r in tl.static_range(BATCH):
                part = phi2[r] * u[c]
                if KIND1 >= 0:
                    part += tl.where((k == c)[:, None], psi2[r][None, :] * s, 0.0)
                parts = parts + (part,)
            parts = sums_of(parts, BATCH)
            for r in tl.static_range(BATCH):
                one = tl.sum(parts[r], axis=0)
                if AT_BIAS1 >= 0:
                    one += a[c]
                logits = logits + (one,)
        # Loss and its gradient by the logits, number by number: class c of row r is logits[c * BATCH + r].
        loss = 0.0
        by_logits = ()
        for r in tl.static_range(BATCH):
            valid = r < count
            if REGRESSION:
                error = logits[r] - tl.load(target_ptr + rows[r])
                loss += tl.where(valid, error * error, 0.0)
                by_logits = by_logits + (tl.where(valid, 2.0 * error / count, 0.0),)
            else:
                y = tl.load(target_ptr + rows[r])
                largest = logits[r]
                for c in tl.static_range(1, CLASSES):
                    largest = tl.maximum(largest, logits[c * BATCH + r])
                exps = ()
                sum_exps = 0.0
                own = 0.0
                for c in tl.static_range(CLASSES):
                    exps = exps + (tl.exp(logits[c * BATCH + r] - largest),)
                    sum_exps += exps[c]
                    own += tl.where(y == c, logits[c * BATCH + r], 0.0)
                loss += tl.where(valid, tl.log(sum_exps) + largest - own, 0.0)
                for c in tl.static_range(CLASSES):
                    one = (exps[c] / sum_exps - tl.where(y == c, 1.0, 0.0)) / count
                    by_logits = by_logits + (tl.where(valid, one, 0.0),)
        loss /= count
        total += loss * count
        # From here on class c of row r is by_logits[r * CLASSES + c].
        parts = ()
        by_rows = ()
        for r in tl.static_range(BATCH):
            back = u[0] * by_logits[r * CLASSES]
            for c in tl.static_range(1, CLASSES):
                back += u[c] * by_logits[r * CLASSES + c]
            back *= slope(x[r][None, :], k[:, None], low, inverse, sharpness, KIND0, ORDER)
            if KIND1 >= 0:
                by_row = tl.where(k == 0, by_logits[r * CLASSES], 0.0)
                for c in tl.static_range(1, CLASSES):
                    by_row = tl.where(k == c, by_logits[r * CLASSES + c], by_row)
                by_rows = by_rows + (by_row,)
                back += s * by_row[:, None] * slope(x[r], 0, low, inverse, sharpness, KIND1, ORDER)[None, :]
            parts = parts + (back,)
        d = sums_of(parts, BATCH)
        # The squared norm: of the first layer's gradient through the products of the minibatch's rows.
        squares = tl.zeros((OUT_PAD,), tl.float32)
        for r in tl.static_range(BATCH):
            along = d[r] * tl.load(table_ptr + rows[r] * table_stride + rows[r])
            for q in tl.static_range(r):
                along += 2.0 * d[q] * tl.load(table_ptr + rows[r] * table_stride + rows[q])
            squares += d[r] * along
        if AT_BIAS0 >= 0:
            by_b = d[0]
            for r in tl.static_range(1, BATCH):
                by_b += d[r]
            squares += by_b * by_b
        norms = tl.where((k == 0)[:, None], squares[None, :], 0.0)
        by_u = ()
        for c in tl.static_range(CLASSES):
            g = phi2[0] * by_logits[c]
            for r in tl.static_range(1, BATCH):
                g += phi2[r] * by_logits[r * CLASSES + c]
            g = tl.where(mask_k, g, 0.0)
            by_u = by_u + (g,)
            norms += g * g
        if KIND1 >= 0:
            by_s = tl.where(mask_c, outer_products(by_rows, psi2, BATCH), 0.0)
            norms += by_s * by_s
        norm = tl.sum(tl.sum(norms, axis=0), axis=0)
        if AT_BIAS1 >= 0:
            by_a = ()
            for c in tl.static_range(CLASSES):
                one = by_logits[c]
                for r in tl.static_range(1, BATCH):
                    one += by_logits[r * CLASSES + c]
                by_a = by_a + (one,)
                norm += one * one
        norm = tl.sqrt(tl.maximum(norm, 0.0))
        sound = (norm + tl.abs(loss)) < 3e38
        t = (done + turn).to(tl.float32)
        diverged = tl.where((diverged < 0) & (sound == 0), (done + turn).to(tl.int64), diverged)
        live = diverged < 0
        factor = tl.where(live, tl.minimum(clip / (norm + 1e-6), 1.0), 0.0)
        rate = tl.where(live, base_rate * (1.0 - t / all_steps.to(tl.float32)), 0.0)
        decay = 1.0 - rate * base_decay
        rate = rate / one_minus_power(t + 1.0, LOG_BETA1)
        correction = 1.0 / tl.sqrt(one_minus_power(t + 1.0, LOG_BETA2))
        parts = ()
        for r in tl.static_range(BATCH):
            parts = parts + (tl.where(live, d[r] * factor, 0.0),)
        d = parts
        w, m, v = adamw(w, m, v, outer_products(phi, d, BATCH), decay, rate, correction)
        if SECOND:
            we, me, ve = adamw(we, me, ve, outer_products(psi, d, BATCH), decay, rate, correction)
        new = ()
        new_m = ()
        new_v = ()
        for c in tl.static_range(CLASSES):
            g = tl.where(live, by_u[c] * factor, 0.0)
            one, one_m, one_v = adamw(u[c], um[c], uv[c], g, decay, rate, correction)
            new = new + (one,)
            new_m = new_m + (one_m,)
            new_v = new_v + (one_v,)
        u = new
        um = new_m
        uv = new_v
        if KIND1 >= 0:
            s, sm, sv = adamw(s, sm, sv, tl.where(live, by_s * factor, 0.0), decay, rate, correction)
        if AT_BIAS0 >= 0:
            b, bm, bv = adamw(b, bm, bv, tl.where(live, by_b * factor, 0.0), decay, rate, correction)
        if AT_BIAS1 >= 0:
            new = ()
            new_m = ()
            new_v = ()
            for c in tl.static_range(CLASSES):
                g = tl.where(live, by_a[c] * factor, 0.0)
                one, one_m, one_v = adamw(a[c], am[c], av[c], g, decay, rate, correction)
                new = new + (one,)
                new_m = new_m + (one_m,)
                new_v = new_v + (one_v,)
            a = new
            am = new_m
            av = new_v
        turn += 1
    tl.debug_barrier()
    tl.store(turn_ptr + head, turn)
    tl.store(total_ptr + head, total)
    tl.store(diverged_ptr + head, diverged)
    tl.store(weight_ptr + at_f, w, mask=mask_f)
    tl.store(first_ptr + at_f, m, mask=mask_f)
    tl.store(second_ptr + at_f, v, mask=mask_f)
    if SECOND:
        tl.store(weight_ptr + at_e, we, mask=mask_e)
        tl.store(first_ptr + at_e, me, mask=mask_e)
        tl.store(second_ptr + at_e, ve, mask=mask_e)
    for c in tl.static_range(CLASSES):
        at = small_at + AT_WEIGHT + (o[None, :] * WIDTH0 + k[:, None]) * CLASSES + c
        tl.store(small_ptr + at, u[c], mask=mask_k)
        tl.store(small_first_ptr + at, um[c], mask=mask_k)
        tl.store(small_second_ptr + at, uv[c], mask=mask_k)
    if KIND1 >= 0:
        tl.store(small_ptr + at_c, s, mask=mask_c)
        tl.store(small_first_ptr + at_c, sm, mask=mask_c)
        tl.store(small_second_ptr + at_c, sv, mask=mask_c)
    if AT_BIAS0 >= 0:
        tl.store(small_ptr + at_b, b, mask=o < OUT)
        tl.store(small_first_ptr + at_b, bm, mask=o < OUT)
        tl.store(small_second_ptr + at_b, bv, mask=o < OUT)
    if AT_BIAS1 >= 0:
        for c in tl.static_range(CLASSES):
            at = small_at + AT_BIAS1 + c
            tl.store(small_ptr + at, a[c])
            tl.store(small_first_ptr + at, am[c])
            tl.store(small_second_ptr + at, av[c])
