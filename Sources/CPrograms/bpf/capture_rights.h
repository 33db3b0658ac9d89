// What hangs on a credential: keyrings and the Landlock domain.
#pragma once

// Where Landlock keeps its part of a credential; not every kernel tells the symbol.
extern const void landlock_blob_sizes __ksym __weak;

// Without the symbol: the first place; whether it is Landlock's, the reader knows.
static __always_inline word landlock_domain(struct cred *cred) {
    struct landlock_cred_security *part = 0;
    __u32 offset = 0;
    if (!bpf_core_field_exists(cred->security) || !bpf_core_field_exists(part->domain)) return 0;
    if (&landlock_blob_sizes) bpf_probe_read_kernel(&offset, sizeof(offset), &landlock_blob_sizes);
    part = (void *)BPF_CORE_READ(cred, security) + offset;
    return (word)BPF_CORE_READ(part, domain);
}

static __always_inline word keys_in(struct key *keyring) {
    return keyring ? BPF_CORE_READ(keyring, keys.nr_leaves_on_tree) : 0;
}
