//! The compiler against the oracle.

use proptest::prelude::*;

use crate::{Facts, Verdict, compile, explain, oracle, testing};

proptest! {
    #![proptest_config(testing::cases(60))]

    #[test]
    fn compile_and_look_up_is_the_oracle(
        documents in testing::documents(),
        questions in prop::collection::vec(testing::question(), 60),
        settled in prop::collection::vec(any::<bool>(), 4),
    ) {
        let endpoints = testing::endpoints();
        let policies = testing::policies(&documents);
        let mut facts = Facts::default();
        for (endpoint, settled) in endpoints.iter().zip(settled) {
            for key in policies.keys().filter(|_| settled) {
                facts.settle(key, endpoint.id);
            }
        }
        let tables = compile(&endpoints, &policies, &facts);
        for endpoint in &endpoints {
            for question in &questions {
                for strict in [false, true] {
                    let oracle::Question { direction, peer, protocol, port } = *question;
                    prop_assert_eq!(
                        tables.allows(endpoint.id, direction, peer, protocol, port, strict),
                        Some(oracle::allows(endpoint, &documents, &facts, *question, strict)),
                        "{:?} asks {:?} (strict: {})\n{}", endpoint.name, question, strict, tables
                    );
                }
                let oracle::Question { direction, peer, protocol, port } = *question;
                let why = explain(endpoint, &policies, &facts, direction, peer, protocol, port);
                for strict in [false, true] {
                    let allowed = match why.verdict {
                        Verdict::Allow => true,
                        Verdict::Deny => false,
                        Verdict::Default => !strict,
                    };
                    prop_assert_eq!(allowed, oracle::allows(endpoint, &documents, &facts, *question, strict), "{:?}", why);
                }
            }
        }
    }

    #[test]
    fn equal_inputs_give_equal_tables(documents in testing::documents()) {
        let endpoints = testing::endpoints();
        let mut back = documents.clone();
        back.reverse();
        let one = compile(&endpoints, &testing::policies(&documents), &Facts::default());
        prop_assert_eq!(one, compile(&endpoints, &testing::policies(&back), &Facts::default()));
    }
}
